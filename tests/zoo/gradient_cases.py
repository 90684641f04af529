"""Networks whose gradients are compared between float32 and float64: every backbone, every supernet, single convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.nas.mixing import new_supernet
from datafree.nas.spaces import SPACES
from datafree.zoo.backbones import BACKBONES, build
from datafree.zoo.backbones.memory_format import channels_last
from tests.zoo.test_backbones import GENOTYPES

Case = tuple[
    Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], tuple[int, ...]
]  # network factory, forward function, shape of the images
LIBRARIES = {"torchvision/*": "torchvision/resnet18"}  # timm is an optional extra


def _backbone(name: str, width: int) -> nn.Module:
    return build(BackboneConfig(LIBRARIES.get(name, name), width, GENOTYPES.get(name, "")), 3, 128 // width, seed=0)


def _supernet(space: str, width: int) -> nn.Module:
    return new_supernet(SPACES[space](width, 1, 16), [3, 5], 0, "cpu")


def _first_path(space: str, width: int, network: nn.Module, images: Tensor) -> Tensor:
    """The supernet's path with the last option of every slot: in most spaces the widest and deepest."""
    path = tuple(options[-1] for options in SPACES[space](width, 1, 16).choices)
    return network(images, path, torch.arange(len(images)) % 2)


def _call(network: nn.Module, images: Tensor) -> Tensor:
    return network(images)


def _convolution(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> nn.Module:
    torch.manual_seed(inputs)
    return channels_last(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups))


CASES: dict[str, Case] = {
    f"{name} of width {width}": (partial(_backbone, name, width), _call, (4, 3, 128 // width, 128 // width))
    for name in BACKBONES
    for width in (4, 8)
    if name != "timm/*" and (width == 8 or name != "torchvision/*")
}
CASES |= {
    f"supernet {space} of width {width}": (partial(_supernet, space, width), partial(_first_path, space, width), (6, 3, 16, 16))
    for space in SPACES
    for width in (4, 8)
}
CASES |= {
    f"{kernel}x{kernel} convolution of stride {stride}, {inputs} to {outputs} channels, {groups} groups, {size} pixels": (
        partial(_convolution, inputs, outputs, kernel, stride, groups),
        _call,
        (batch, inputs, size, size),
    )
    for kernel in (1, 3)
    for stride in (1, 2, 3)
    for inputs, outputs, groups in [(1, 4, 1), (3, 8, 1), (4, 8, 1), (4, 16, 2), (5, 8, 1), (7, 7, 7), (10, 24, 1), (15, 8, 1), (17, 8, 1)]
    for size, batch in [(5, 3), (16, 16)]
}


def worst_difference(case: Case) -> float:
    """Largest distance between the gradients of images and weights in float32 and in float64, relative to their norm.

    The input of a ReLU near zero may have the other sign in float32, so deep networks differ by more than rounding, by a few hundredths
    at most; a wrong gradient differs by about one.
    """
    make, forward, shape = case
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=rng, dtype=torch.float64)
    network = make()
    double = copy.deepcopy(network).double()
    with torch.no_grad():
        direction = torch.randn(forward(double, images).shape, generator=rng, dtype=torch.float64)
    gradients = []
    for model, dtype in ((double, torch.float64), (network, torch.float32)):
        inputs = images.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        total = (forward(model, inputs) * direction.to(dtype)).sum()
        of_model = torch.autograd.grad(total, [inputs, *model.parameters()], allow_unused=True)
        gradients.append([gradient.double() for gradient in of_model if gradient is not None])
    longest = max(float(gradient.norm()) for gradient in gradients[0])
    return max(float((a - b).norm()) / max(float(a.norm()), 1e-3 * longest) for a, b in zip(*gradients, strict=True))
