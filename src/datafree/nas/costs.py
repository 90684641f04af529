"""Multiply-adds and parameters of convolutions and BatchNorms, counted without building them. Pure Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution without bias whose output has ``size`` × ``size`` pixels or, with ``kernel`` 0, a BatchNorm of ``outputs`` channels."""

    inputs: int
    outputs: int
    kernel: int
    size: int
    groups: int = 1

    @property
    def macs(self) -> int:
        return self.size**2 * self.outputs * (self.inputs // self.groups) * self.kernel**2

    @property
    def parameters(self) -> int:
        return self.outputs * (self.inputs // self.groups) * self.kernel**2 if self.kernel else 2 * self.outputs


def norm(channels: int) -> Layer:
    return Layer(channels, channels, 0, 0)


def conv_norm(inputs: int, outputs: int, kernel: int, size: int, groups: int = 1) -> list[Layer]:
    """A convolution followed by BatchNorm."""
    return [Layer(inputs, outputs, kernel, size, groups), norm(outputs)]


def total_macs(layers: Iterable[Layer]) -> int:
    return sum(layer.macs for layer in layers)


def total_parameters(layers: Iterable[Layer]) -> int:
    return sum(layer.parameters for layer in layers)
