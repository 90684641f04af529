"""Search spaces by name. A new one is one file here, its network in ``datafree.zoo.backbones``, and a line in ``SPACES``."""

from __future__ import annotations

from datafree.config import AlgorithmConfig
from datafree.nas.spaces.base import Genotype, Space
from datafree.nas.spaces.darts import DartsSpace
from datafree.nas.spaces.mbconv import MbconvImagenetSpace, MbconvSpace
from datafree.nas.spaces.nasbench201 import NasBench201Space
from datafree.nas.spaces.slim_resnet import SlimResNetSpace

SPACES: dict[str, type[Space]] = {
    kind.name: kind for kind in (NasBench201Space, DartsSpace, MbconvSpace, MbconvImagenetSpace, SlimResNetSpace)
}


def of(config: AlgorithmConfig, image_size: int, image_channels: int = 3) -> Space:
    """The space that an algorithm's settings name, for images of one size."""
    return SPACES[config.space](config.channels, config.cells, image_size, image_channels)


__all__ = ["SPACES", "Genotype", "Space", "of"]
