"""Networks whose gradients are compared between float32 and float64: backbones, searched networks, supernets, single convolutions."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from datafree.config import BackboneConfig
from datafree.nas.networks import build
from datafree.nas.spaces import SPACES
from datafree.nas.supernet import new_supernet
from datafree.zoo.backbones import BACKBONES
from datafree.zoo.backbones.memory_format import channels_last

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module, Tensor], Tensor], tuple[int, ...]]  # factory, forward, shape of the images
CELL = "|nor_conv_3x3~0|+|skip_connect~0|nor_conv_1x1~1|+|avg_pool_3x3~0|none~1|nor_conv_3x3~2|"
PAIRS = "('sep_conv_3x3', 0), ('skip_connect', 1), ('dil_conv_5x5', 0), ('avg_pool_3x3', 2), ('max_pool_3x3', 1), ('skip_connect', 3)"
PAIRS += ", ('skip_connect', 0), ('sep_conv_5x5', 4)"
GENOTYPES = {
    "nasbench201": CELL,
    "darts": f"Genotype(normal=[{PAIRS}], normal_concat=range(2, 6), reduce=[{PAIRS}], reduce_concat=range(2, 6))",
    "mbconv": "skip-k5e3-k7e6",
    "mbconv_imagenet": "k3e3-k5e6-k7e3-k3e6-k5e3-k3e3",
    "slim_resnet": "w0.5d1-w1d1-w0.75d1",
}
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
    for name in (*BACKBONES, *SPACES)
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
