"""Whether a classifier can have been trained: from its weights, its BatchNorm statistics, and its answers to noise. No data needed."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree import devices
from datafree.zoo.backbones import batch_norm_layers

GRIDS = (1, 2, 4, 8, 16, 32)  # pixels across the noise before it is enlarged: from one colour to fine grain
SAME = 1e-4  # of the largest logit: answers that differ by less are one answer
FIT = 0.2  # correlation below which statistics and weights do not belong together; see statistics_fit
CHANNELS = 64  # that all layers together must have before their correlation says anything
WEIGHTS = 1000  # that a layer must have before its distribution says anything


def noise_images(shape: Sequence[int], count: int, seed: int = 0) -> Tensor:
    """Noise of every grain, colour and contrast: uint8 [count, C, H, W] for ``shape`` [C, H, W].

    White noise alone would not do: to a classifier of photographs it is one texture, which sound networks give one class.
    """
    channels, height, width = shape
    rng = devices.generator(seed, "noise")
    images = []
    for place in range(count):
        grid = GRIDS[place % len(GRIDS)]
        grain = torch.rand(1, channels, grid, grid, generator=rng)
        contrast, ground = torch.rand(1, generator=rng), torch.rand(1, channels, 1, 1, generator=rng)
        image = F.interpolate(grain, size=(height, width), mode="bilinear", align_corners=False)
        images.append(contrast * image + (1 - contrast) * ground)
    return (torch.cat(images) * 255).round().to(torch.uint8)


def never_trained(network: nn.Module) -> str:
    """Why the parameters are those of a fresh initialisation; empty if they are not.

    Every step of training moves the scale and shift of a normalisation layer, which begin at 1 (or 0, on residual branches) and 0:
    untouched ones show that no step was taken, whatever the initialisation of the other weights. Without such layers the biases
    tell, if they begin at 0, or the distribution of the weights, if it is PyTorch's own.
    """
    layers = list(network.modules())
    scaled = [layer for layer in layers if isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm))]
    scaled = [layer for layer in scaled if layer.weight is not None and layer.bias is not None]
    if scaled:
        if all(_is(layer.weight, 1) or _is(layer.weight, 0) for layer in scaled) and all(_is(layer.bias, 0) for layer in scaled):
            return f"scale and shift of all {len(scaled)} normalisation layers are as initialised: its weights were never trained"
        return ""
    weighted = [layer for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    biases = [layer.bias for layer in weighted if layer.bias is not None]
    large = [layer for layer in weighted if layer.weight.numel() >= WEIGHTS]
    if (biases and all(_is(bias, 0) for bias in biases)) or (large and all(_is_pytorch_default(layer.weight) for layer in large)):
        return "all of its weights are distributed as initialised: it was never trained"
    return ""


def _is(values: Tensor, number: float) -> bool:
    return bool((values == number).all())


def _is_pytorch_default(weight: Tensor) -> bool:
    """Uniform within ± 1/√(inputs): nothing beyond, and the standard deviation of that distribution up to chance."""
    bound = 1 / math.sqrt(weight[0].numel())
    spread = weight.float().std().item() / (bound / math.sqrt(3))
    return weight.abs().max().item() <= bound * 1.0001 and abs(spread - 1) < 3 / math.sqrt(weight.numel())


def never_updated(network: nn.Module) -> str:
    """Why the BatchNorm statistics are those of a fresh layer; empty if they are not, or there are none."""
    layers = batch_norm_layers(network)
    if layers and all(_is(layer.running_mean, 0) and _is(layer.running_var, 1) for layer in layers):  # pyright: ignore[reportArgumentType]
        return f"the running statistics of all {len(layers)} BatchNorm layers are as initialised, mean 0 and variance 1"
    return ""


def statistics_fit(layers: Sequence[nn.BatchNorm2d], variances: Sequence[Tensor]) -> float | None:
    """How well running variances fit the weights before them, from −1 to 1; None if there are too few channels to say.

    ``variances`` [channels] are those of each layer's inputs on some images. Which channels of a layer vary more is decided by their
    filters, for images of any kind: over the channels, the logarithms of the variances on noise and of the running variances
    correlate. Statistics of other weights, or weights drawn anew under old statistics, do not. The mean over layers, by channels.
    Measured: 0.34 to 0.90 in 120 sound networks, −0.28 to 0.19 in 135 whose statistics or weights were drawn anew or shuffled.
    """
    total, weights = 0.0, 0
    for layer, variance in zip(layers, variances, strict=True):
        assert layer.running_var is not None
        pair = torch.stack([variance, layer.running_var]).double().clamp_min(1e-12).log()
        if len(variance) > 1 and bool((pair.std(1) > 1e-6).all()):
            total += torch.corrcoef(pair)[0, 1].item() * len(variance)
        weights += len(variance)
    return total / weights if weights >= CHANNELS else None


@torch.no_grad()
def watch(network: nn.Module, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits [B, classes] of normalised inputs [B, C, H, W], and per BatchNorm layer the variance [channels] of what reaches it."""
    variances: dict[nn.Module, Tensor] = {}
    layers = batch_norm_layers(network)

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        variances[layer] = arguments[0].float().var((0, 2, 3), correction=0)

    handles = [layer.register_forward_pre_hook(keep) for layer in layers]
    try:
        logits = network(inputs).float()
    finally:
        for handle in handles:
            handle.remove()
    return logits, [variances[layer] for layer in layers if layer in variances]


def problems(network: nn.Module, inputs: Tensor) -> tuple[list[str], Tensor]:
    """What is wrong with a network in evaluation mode, one line each, and its logits for ``inputs``: normalised noise [B, C, H, W]."""
    logits, variances = watch(network, inputs)
    found = [never_trained(network) or never_updated(network)]
    layers = batch_norm_layers(network)
    fit = statistics_fit(layers, variances) if not any(found) and len(variances) == len(layers) else None
    if not torch.isfinite(logits).all():
        found.append("its logits for noise are not finite")
    elif (logits.amax(0) - logits.amin(0)).max() <= SAME * logits.abs().max():
        found.append("it gives every image the same logits")
    elif fit is not None and fit < FIT:
        found.append(f"its BatchNorm statistics do not belong to its weights (correlation {fit:.2f} over channels, below {FIT})")
    return [line for line in found if line], logits
