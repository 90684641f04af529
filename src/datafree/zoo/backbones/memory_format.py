"""Channels-last memory for networks, without the convolutions whose oneDNN kernel is defective in that format."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)

# Input channels per group below which the defective kernels are met: the block of channels of AVX-512; that of AVX2 is 8.
CHANNEL_BLOCK = 16


def channels_last(module: Module) -> Module:
    """The module itself, its weights in channels-last memory, its strided 1x1 convolutions of few channels split into two operations.

    oneDNN (3.12, the version in PyTorch 2.13) writes beyond its workspace in the gradient of the weights of such a convolution if its
    input is in channels-last memory: with AVX2, and by the report with AVX-512, the process dies of a corrupted heap, hangs, or goes on
    with wrong gradients (https://github.com/uxlfoundation/oneDNN/issues/6035). A convolution of stride 1 does not use that workspace:
    every stride-th pixel is taken first, which is the same function. This can go once the oldest PyTorch that pyproject.toml admits has
    a oneDNN without the defect; ``tests/zoo/test_memory_format.py`` tells.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and meets_defect(part):
            part.register_forward_pre_hook(_Subsample(part))
            part.stride, part.padding, part.padding_mode = (1, 1), (0, 0), "zeros"
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def meets_defect(convolution: nn.Conv2d) -> bool:
    """Whether a gradient of this layer may be left to a defective kernel: 1x1, strided, few input channels."""
    pointwise = set(convolution.kernel_size) == {1}
    return pointwise and max(convolution.stride) > 1 and convolution.in_channels // convolution.groups < CHANNEL_BLOCK


class _Subsample:
    """Pads the input of a strided 1x1 convolution as the layer would and takes every stride-th pixel of it."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.stride = convolution.stride
        rows, columns = (0, 0) if isinstance(convolution.padding, str) else convolution.padding  # strided: `valid` is the only word
        self.padding = (columns, columns, rows, rows)
        self.mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images = F.pad(inputs[0], self.padding, self.mode) if any(self.padding) else inputs[0]
        return (images[..., :: self.stride[0], :: self.stride[1]], *inputs[1:])
