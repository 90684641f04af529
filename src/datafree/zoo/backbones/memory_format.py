"""Channels-last memory format for networks, avoiding convolutions with a defective oneDNN kernel in that format."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Module = TypeVar("Module", bound=nn.Module)

# The defective kernels are used below this number of input channels per group: the channel block of AVX-512; that of AVX2 is 8.
CHANNEL_BLOCK = 16


def channels_last(module: Module) -> Module:
    """The module itself, with weights in channels-last memory and strided 1x1 convolutions of few channels split into two operations.

    oneDNN (3.12, the version in PyTorch 2.13) writes beyond its workspace in the weight gradient of such a convolution if its input is
    in channels-last memory: with AVX2, and with AVX-512 according to the report, the process crashes with a corrupted heap, hangs, or
    continues with wrong gradients (https://github.com/uxlfoundation/oneDNN/issues/6035). A convolution of stride 1 does not use that
    workspace, so every stride-th pixel is selected first, which computes the same function. Remove this once the oldest PyTorch that
    pyproject.toml allows has a oneDNN without the defect; ``tests/zoo/test_memory_format.py`` shows whether it has.
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and has_defective_kernel(part):
            part.register_forward_pre_hook(_Subsample(part))
            part.stride, part.padding, part.padding_mode = (1, 1), (0, 0), "zeros"
    return module.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def has_defective_kernel(convolution: nn.Conv2d) -> bool:
    """Whether a defective kernel may compute a gradient of this layer: 1x1, strided, few input channels."""
    pointwise = set(convolution.kernel_size) == {1}
    return pointwise and max(convolution.stride) > 1 and convolution.in_channels // convolution.groups < CHANNEL_BLOCK


class _Subsample:
    """Pads the input of a strided 1x1 convolution as the layer would and selects every stride-th pixel."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        self.stride = convolution.stride
        # A strided layer allows no padding string but `valid`.
        rows, columns = (0, 0) if isinstance(convolution.padding, str) else convolution.padding
        self.padding = (columns, columns, rows, rows)
        self.mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images = F.pad(inputs[0], self.padding, self.mode) if any(self.padding) else inputs[0]
        return (images[..., :: self.stride[0], :: self.stride[1]], *inputs[1:])
