"""Inversion losses: BatchNorm statistics, diversity, total variation, adversarial boundary, Jensen-Shannon; functions of tensors."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datafree.zoo.backbones import batch_norm_layers
from datafree.zoo.hooks import LayerHooks
from datafree.zoo.logits import at_least_float32


def batch_norm_distance(mean: Tensor, variance: Tensor, running_mean: Tensor, running_variance: Tensor) -> Tensor:
    """Relative distance of batch statistics to running statistics, all [channels]; 0 at equality.

    mean_c (μ − μ_r)² / σ_r² + mean_c (σ / σ_r − 1)²: a scale-free form of DeepInversion's R_BN (Yin et al., CVPR 2020, eq. 4), so that
    layers with large activations do not dominate the sum.
    """
    floor = 1e-5
    spread = running_variance.clamp_min(floor)
    shift = (mean - running_mean).square() / spread
    stretch = ((variance.clamp_min(floor) / spread).sqrt() - 1).square()
    return shift.mean() + stretch.mean()


def statistics_distance(layer: nn.Module, inputs: Tensor) -> Tensor:
    """The distance, a scalar, of the statistics of a BatchNorm layer's input [B, C, H, W] to its running ones; under ``vmap`` too."""
    assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
    variance, mean = torch.var_mean(at_least_float32(inputs), (0, 2, 3), correction=0)
    return batch_norm_distance(mean, variance, layer.running_mean, layer.running_var)


class BatchStatistics(torch.autograd.Function):
    """``apply(inputs)``: mean and uncorrected variance, float [C] each, over all but the second dimension of ``inputs`` [B, C, ...].

    Equals ``torch.var_mean(..., correction=0)``, but is about six times faster on a CPU including the gradient; it was a third of an
    inversion's time. The gradient is a multiple of the inputs plus a constant per channel.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        rows = inputs.movedim(1, -1).flatten(0, -2)
        rows = at_least_float32(rows)
        mean = rows.mean(0)
        ctx.save_for_backward(inputs, mean)
        return mean, (rows - mean).square_().mean(0)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        inputs, mean = ctx.saved_tensors
        count = inputs.numel() // inputs.shape[1]
        factor = 2 * to_variance / count
        offset = to_mean / count - factor * mean
        channels = (1, -1, *[1] * (inputs.dim() - 2))
        return torch.addcmul(offset.view(channels), inputs.to(mean.dtype), factor.view(channels)).to(inputs.dtype)


class BatchNormMatch:
    """Compares the inputs of a network's BatchNorm2d layers with their running statistics, inside a ``with`` block.

    After a forward pass ``distance()`` is the mean of ``batch_norm_distance`` over ``layers``; it is differentiable. Leaving the block
    removes the hooks.
    """

    def __init__(self, network: nn.Module) -> None:
        self.layers = batch_norm_layers(network)
        self._hooks = LayerHooks(self.layers, self._compare)
        self._distances: list[Tensor] = []

    def __enter__(self) -> BatchNormMatch:
        self._hooks.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._hooks.__exit__(kind, error, trace)
        self._distances = []

    def _compare(self, layer: nn.Module, inputs: Tensor) -> None:
        assert isinstance(layer, nn.BatchNorm2d) and layer.running_mean is not None and layer.running_var is not None
        mean, variance = BatchStatistics.apply(inputs)
        self._distances.append(batch_norm_distance(mean, variance, layer.running_mean, layer.running_var))

    def distance(self) -> Tensor:
        """Mean over the layers that ran since the last call, a scalar; zero for a network without BatchNorm."""
        distances, self._distances = self._distances, []
        return torch.stack(distances).mean() if distances else torch.zeros(())


def within_class_distance(images: Tensor, labels: Tensor) -> Tensor:
    """Mean absolute difference of two images of the same class, over all such pairs; images float [B, C, H, W], labels [B].

    Zero if no class has two images.
    """
    flat = images.flatten(1)
    # Class by class: most pairs of a batch are of different classes, and computing them would be wasted.
    distances = torch.cat([torch.pdist(flat[labels == label], p=1) for label in labels.unique().tolist()])
    return distances.mean() / flat.shape[1] if len(distances) else images.new_zeros(())


def class_places(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Places of the images of each class: int64 [R, K, n] with n the size of the largest class, for labels int64 [R, B] on the CPU.

    Second, bool [R, K, n]: whether there is such an image; places without one are 0.
    """
    members = F.one_hot(labels)
    rank = ((members.cumsum(1) - 1) * members).sum(-1)  # among the images of the same class
    rows = torch.arange(len(labels))[:, None].expand_as(labels)
    places = torch.zeros(len(labels), members.shape[2], int(rank.max()) + 1, dtype=torch.int64)
    there = torch.zeros_like(places, dtype=torch.bool)
    places[rows, labels, rank], there[rows, labels, rank] = torch.arange(labels.shape[1]).expand_as(labels), True
    return places, there


def stacked_within_class_distance(images: Tensor, places: Tensor, there: Tensor) -> Tensor:
    """``within_class_distance`` of each row of images float [R, B, C, H, W], [R]; ``places`` and ``there`` are of ``class_places``."""
    flat = images.flatten(2)
    grouped = flat.gather(1, places.flatten(1)[..., None].expand(-1, -1, flat.shape[2])).unflatten(1, places.shape[1:])
    pairs = (there[..., :, None] & there[..., None, :]).triu(1)
    # cdist's own batching: one [n, n] matrix for every row and class.
    distances = torch.cdist(grouped, grouped, p=1.0)
    count = pairs.flatten(1).sum(1)
    return torch.where(pairs, distances, 0.0).flatten(1).sum(1) / (count.clamp_min(1) * flat.shape[2])


def diversity_hinge(images: Tensor, labels: Tensor, margin: float) -> Tensor:
    """max(0, margin − ``within_class_distance``): images of one class must differ by ``margin`` on average.

    Without it a generator can minimise cross-entropy and the statistics term with one image per class (mode collapse).
    """
    return (margin - within_class_distance(images, labels)).clamp_min(0)


def soft_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """−mean_b Σ_c t_c log softmax(z)_c of logits and target probabilities, both [B, K]: the entropy of the targets at equality."""
    return -(targets * F.log_softmax(at_least_float32(logits), dim=1)).sum(1).mean()


def total_variation(images: Tensor) -> Tensor:
    """Squared differences of neighbouring pixels, averaged over images, channels and pixels, summed over the four directions.

    The input-level prior of DeepInversion (Yin et al., CVPR 2020, eq. 3) in a form that does not depend on the number or size of the
    images [B, C, H, W]; zero for constant images.
    """
    return torch.stack([difference.square().mean() for difference in _neighbour_differences(images)]).sum()


def stacked_total_variation(images: Tensor) -> Tensor:
    """``total_variation`` of each row of images [R, B, C, H, W], [R]."""
    return torch.stack([difference.square().flatten(1).mean(1) for difference in _neighbour_differences(images)]).sum(0)


def _neighbour_differences(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    down, right = images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]
    return down, right, images[..., 1:, 1:] - images[..., :-1, :-1], images[..., 1:, :-1] - images[..., :-1, 1:]


def squared_norm(images: Tensor) -> Tensor:
    """The mean squared pixel: DeepInversion's ℓ2 prior, independent of the number and size of the images [B, C, H, W]."""
    return images.square().mean()


def boundary(teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
    """Adversarial term −mean_b 1[same predicted class] · KL(teacher ‖ student) of logits [B, K], a scalar.

    It moves images to where the student still differs from the teacher; CMI and Fast-Datafree use it. FREE's released code computes another
    quantity: it passes probabilities to ``kl_div``, which expects log-probabilities.
    """
    teacher, student = F.log_softmax(at_least_float32(teacher_logits), dim=1), F.log_softmax(at_least_float32(student_logits), dim=1)
    agreed = teacher.argmax(1) == student.argmax(1)
    return -(F.kl_div(student, teacher, reduction="none", log_target=True).sum(1) * agreed).mean()


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Mean Jensen–Shannon divergence of two sets of logits [B, K], in bits: 0 for equal distributions, 1 for disjoint ones."""
    log_first, log_second = F.log_softmax(at_least_float32(first), dim=1), F.log_softmax(at_least_float32(second), dim=1)
    log_mean = torch.logaddexp(log_first, log_second) - math.log(2)
    divergences = [F.kl_div(log_mean, side, reduction="none", log_target=True).sum(1) for side in (log_first, log_second)]
    return (divergences[0] + divergences[1]).mean() / (2 * math.log(2))
