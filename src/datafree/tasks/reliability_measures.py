"""Measures behind teacher reliability: agreement with other teachers, compactness of classes, recovery of labels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from datafree import devices
from datafree.zoo.logits import at_least_float32
from datafree.zoo.teachers import Teacher

RIDGE = 0.01  # in units of the kernel's mean diagonal


def features_and_logits(teacher: Teacher, images: Tensor, device: torch.device | str, batch_size: int = 200) -> tuple[Tensor, Tensor]:
    """A teacher's features [N, D] and logits [N, K], at least float32, on the CPU, for uint8 images [N, C, H, W] of any size."""
    features, logits = [], []
    for part in images.split(batch_size):
        features.append(at_least_float32(teacher.network.backbone(teacher.normalise(devices.moved(part, torch.device(device))))))
        logits.append(at_least_float32(teacher.network.head(features[-1])))
    return torch.cat(features).cpu(), torch.cat(logits).cpu()


def linear_kernel(features: Tensor) -> Tensor:
    """Inner products [N, N] of centred features [N, D], scaled to a mean diagonal of 1; zero for features that do not vary."""
    centred = features - features.mean(0)
    with torch.autocast(features.device.type, enabled=False):  # the rounding of bfloat16 exceeds the ridge
        kernel = centred @ centred.T
    return kernel * (len(kernel) / kernel.trace().clamp_min(1e-12))


def agreements(
    features: Sequence[Tensor], logits: Sequence[Tensor], owner: Tensor, fold: Tensor, device: torch.device | str = "cpu"
) -> list[tuple[float, float]]:
    """The ``agreement`` of each teacher with the mean kernel of the others, from all teachers' features [N, D] and logits [N, K].

    ``owner`` int64 [N] gives the teacher from whose pool each image is, ``fold`` int64 [N] a partition of the images. A kernel is computed
    again where it is subtracted: those of all teachers may not fit into the memory. It is computed on ``device``.
    """
    device = torch.device(device)
    kernels = (linear_kernel(devices.moved(own, device)).double() for own in features)
    total = next(kernels)
    for kernel in kernels:
        total = total + kernel
    results, fold, others = [], devices.moved(fold, device), max(len(features) - 1, 1)
    for index, (own, target) in enumerate(zip(features, logits, strict=True)):
        kernel = (total - linear_kernel(devices.moved(own, device)).double()) / others
        results.append(agreement(kernel, devices.moved(target, device), devices.moved(owner != index, device), fold))
    return results


def agreement(kernel: Tensor, logits: Tensor, use: Tensor, fold: Tensor) -> tuple[float, float]:
    """What kernel ridge regression on the others' features explains of one teacher's logits [N, K], held out: two values from 0 to 1.

    The first is the share of the variance of the logits. The second is the variance of the probabilities, relative to the largest that K
    classes can have: that of certain predictions, every class equally often.

    ``kernel`` float64 [N, N] is the mean of the other teachers' ``linear_kernel``. ``use`` bool [N] leaves out the images that were
    recovered from the teacher itself, because they were optimised for its predictions. ``fold`` int64 [N] partitions the images; each fold
    is predicted from the others.
    """
    if not use.any():
        return 0.0, 0.0
    kernel, logits, fold = kernel[use][:, use], logits[use].double(), fold[use]
    classes = logits.shape[1]
    target = torch.cat([logits - logits.mean(1, keepdim=True), logits.softmax(1)], 1)  # softmax ignores a shift of all logits
    error, total = torch.zeros_like(target[0]), torch.zeros_like(target[0])
    for held_out in fold.unique():
        train, test = fold != held_out, fold == held_out
        mean = target[train].mean(0)
        ridge = RIDGE * torch.eye(int(train.sum()), dtype=torch.float64, device=kernel.device)
        coefficients = torch.linalg.solve(kernel[train][:, train] + ridge, target[train] - mean)
        error += (target[test] - mean - kernel[test][:, train] @ coefficients).square().sum(0)
        total += (target[test] - mean).square().sum(0)
    of_logits, of_probabilities = ((total - error)[part].sum().item() for part in (slice(classes), slice(classes, None)))
    largest = len(target) * (1 - 1 / classes)
    # A fit worse than the mean would give negative values without a lower bound; it explains nothing.
    return max(of_logits / max(total[:classes].sum().item(), 1e-12), 0.0), max(of_probabilities / max(largest, 1e-12), 0.0)


def compactness(features: Tensor, labels: Tensor) -> float:
    """Share of the variance of features [N, D] that lies between the classes, less the share expected by chance."""
    groups = [features[labels == label] for label in labels.unique()]
    within = sum(group.var(0).sum().item() * len(group) for group in groups if len(group) > 1) / len(features)
    between = (torch.stack([group.mean(0) for group in groups]).var(0).sum() if len(groups) > 1 else torch.zeros(())).item()
    between = max(between - within * len(groups) / len(features), 0.0)
    return between / max(between + within, 1e-12)


def recovery(logits: Tensor, labels: Tensor) -> float:
    """Mean probability of the labels [N] under logits [N, K], scaled so that chance is 0 and certainty 1."""
    chance = 1 / logits.shape[1]
    return (logits.softmax(1).gather(1, labels[:, None]).mean().item() - chance) / (1 - chance)
