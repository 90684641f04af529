"""The registry of search spaces. A new space is a package here (genotype, space, network, supernet) and its class in ``SPACES``.

The modules of a space:
    genotype.py   how an architecture is written as a string, and the tables of operations and shapes; no PyTorch
    space.py      the ``Space``: choices, costs, sampling; no PyTorch
    network.py    the stand-alone network of one architecture
    supernet.py   the network that holds all architectures with shared weights
"""

from __future__ import annotations

from datafree.config import AlgorithmConfig
from datafree.nas.space import Space
from datafree.nas.spaces.darts.space import DartsSpace
from datafree.nas.spaces.mbconv.space import MbconvImagenetSpace, MbconvSpace
from datafree.nas.spaces.nasbench201.space import NasBench201Space
from datafree.nas.spaces.slim_resnet.space import SlimResNetSpace

SPACES: dict[str, type[Space]] = {
    space.name: space for space in (NasBench201Space, DartsSpace, MbconvSpace, MbconvImagenetSpace, SlimResNetSpace)
}


def of(config: AlgorithmConfig, image_size: int, image_channels: int = 3) -> Space:
    """The space of an algorithm's settings, for images of [image_channels, image_size, image_size]."""
    return SPACES[config.space](config.channels, config.cells, image_size, image_channels)
