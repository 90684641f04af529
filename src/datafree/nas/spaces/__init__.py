"""The registry of search spaces. A new space is a package here (genotype, space, network, supernet) and a line in ``SPACES``.

A space is imported only when it is looked up.

The modules of a space:
    genotype.py   how an architecture is written as a string, and the tables of operations and shapes; no PyTorch
    space.py      the ``Space``: choices, costs, sampling; no PyTorch
    network.py    the stand-alone network of one architecture
    supernet.py   the network that holds all architectures with shared weights
"""

from __future__ import annotations

from datafree.config import AlgorithmConfig
from datafree.nas.space import Space
from datafree.registry import Registry

SPACES: Registry[type[Space]] = Registry(
    {
        "nasbench201": "datafree.nas.spaces.nasbench201.space:NasBench201Space",
        "darts": "datafree.nas.spaces.darts.space:DartsSpace",
        "mbconv": "datafree.nas.spaces.mbconv.space:MbconvSpace",
        "mbconv_imagenet": "datafree.nas.spaces.mbconv.space:MbconvImagenetSpace",
        "slim_resnet": "datafree.nas.spaces.slim_resnet.space:SlimResNetSpace",
    }
)


def of(config: AlgorithmConfig, image_size: int, image_channels: int = 3) -> Space:
    """The space of an algorithm's settings, for images of [image_channels, image_size, image_size]."""
    return SPACES[config.space](config.channels, config.cells, image_size, image_channels)
