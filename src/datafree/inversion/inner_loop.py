"""Inner loop of FIVE: train a copy of a generator on each of several teachers for k steps; draw images from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint, SavedState
from datafree.config import InversionStepConfig
from datafree.inversion.generator import Generator
from datafree.inversion.generator_copies import GeneratorCopies
from datafree.inversion.objective import ExtraTerm, weighted
from datafree.inversion.rows import Row
from datafree.inversion.stacked_objective import objective_of
from datafree.inversion.step_history import StepHistory
from datafree.progress import progress


@dataclass(frozen=True)
class InnerLoopConfig:
    """``steps`` of Adam with ``batch_size`` images each; without ``latent_learning_rate`` the latents are new at every step."""

    steps: int
    learning_rate: float
    batch_size: int
    latent_learning_rate: float | None = None


@dataclass(frozen=True)
class PoolInputs:
    """Generator inputs and target probabilities of all images of a pool, on the CPU: latents [N, D], labels [N], targets [N, K]."""

    latents: Tensor
    labels: Tensor
    targets: Tensor


class RowCheckpoint:
    """The checkpoint of one row of an inner loop: ``first``, the step to continue with, and the history so far."""

    def __init__(self, checkpoint: Checkpoint, extras: Sequence[ExtraTerm] = ()) -> None:
        self.checkpoint = checkpoint
        self.saved = SavedState()
        self._objects = {"copy": self.saved, **{extra.name: extra for extra in extras}}
        self.first, self.history = checkpoint.restore(**self._objects)

    def write(self, step: int, history: list[dict[str, float]], state: dict[str, Any]) -> None:
        self.saved.values = state
        self.checkpoint.write(step, history, **self._objects)


@dataclass(frozen=True)
class InnerLoopResult:
    """The trained copies, the loss terms per step in ``history.rows``, once they are read, and the labels of the last step, [R, B]."""

    copies: GeneratorCopies
    history: StepHistory
    labels: Tensor


def batch_labels(classes: int, count: int, rng: torch.Generator) -> Tensor:
    """int64 [count]: balanced over all classes if each occurs twice, else over ``count // 2`` random classes (diversity needs pairs)."""
    if 2 * classes <= count:
        return balanced_labels(classes, count)
    chosen = torch.randperm(classes, generator=rng)[: max(1, count // 2)]
    return chosen[balanced_labels(len(chosen), count)]


def balanced_labels(classes: int, count: int) -> Tensor:
    """int64 [count]: 0, 1, …, classes − 1, 0, 1, …"""
    return torch.arange(count) % classes


def run_inner_loop(
    generators: Sequence[Generator],
    rows: Sequence[Row],
    config: InnerLoopConfig,
    shared: InversionStepConfig,
    *,
    together: bool = False,
    labels: Tensor | None = None,
    inputs: Sequence[PoolInputs] | None = None,
    extras: Sequence[ExtraTerm] = (),
    each_step: Callable[[GeneratorCopies], None] = lambda _: None,
    checkpoints: Sequence[RowCheckpoint] = (),
) -> InnerLoopResult:
    """Train a copy of each generator for ``config.steps`` Adam steps on one teacher: generators and rows correspond.

    FREE (CVPR 2024), FIVE's inner loop: a fresh Adam (betas .5, .999) per teacher; new latents at every step, or one batch of latents
    that is optimised together with the weights. A row whose loss became NaN or infinite has an error in ``history.errors``; the loop ends
    early if every row has.

    Args:
        together: all rows in one pass; their teachers must be of one architecture.
        labels: int64 [R, B] of the batches whose latents are optimised; None gives balanced batches.
        inputs: for each row, take random images of these as batches.
        extras: additional terms; their own training state changes in place.
        each_step: called with the copies after every step, when their gradients are still set; first-order MAML reads them.
        checkpoints: one per row, all at the same step; empty if the caller saves checkpoints and shows progress.
    """
    device = next(generators[0].parameters()).device
    rngs = [devices.generator(row.seed, "batch") for row in rows]
    labels = _random_labels(rows, config.batch_size, rngs) if labels is None else labels
    latents = _random_latents(labels.shape[1], generators[0].latent, rngs)
    copies = GeneratorCopies(
        generators, latents.to(device), config.learning_rate, config.latent_learning_rate, together=together,
    )  # fmt: skip
    objective = objective_of(rows, shared.loss, shared, together=together, extras=extras)
    names = [f"inversion of {row.teacher.name}" for row in rows]
    history = StepHistory(names, [checkpoint.history for checkpoint in checkpoints] or [[] for _ in rows], device)
    first = checkpoints[0].first if checkpoints else 0
    if first:
        copies.restore([checkpoint.saved.values for checkpoint in checkpoints])
    label = names[0] if len(names) == 1 else f"inversion of {len(names)} teachers"
    steps = range(first, config.steps)
    for step in progress(steps, len(steps), label) if checkpoints else steps:
        rngs, targets, batch = [devices.generator(row.seed, "adapt", step) for row in rows], None, copies.latents
        if inputs is not None:
            batch, labels, targets = _from_pools(inputs, config.batch_size, rngs, device)
        elif not config.latent_learning_rate:
            labels = _random_labels(rows, config.batch_size, rngs)
            batch = devices.moved(_random_latents(labels.shape[1], generators[0].latent, rngs), device)
        result = objective(copies(batch, devices.moved(labels, device)), labels, rngs, targets=targets)
        copies.step(weighted(result.terms, shared.loss, extras))
        objective.learn()
        each_step(copies)
        history.add([step + 1] * len(rows), result.terms)
        if any(checkpoint.checkpoint.due for checkpoint in checkpoints):
            history.read()
            for number, checkpoint in enumerate(checkpoints):
                if history.errors[number] is None:
                    checkpoint.write(step + 1, history.rows[number], copies.state(number))
        if all(history.errors):
            break
    return InnerLoopResult(copies, history, labels)


def _random_labels(rows: Sequence[Row], count: int, rngs: Sequence[torch.Generator]) -> Tensor:
    """``batch_labels`` of each row, [R, count]."""
    return torch.stack([batch_labels(len(row.teacher.classes), count, rng) for row, rng in zip(rows, rngs, strict=True)])


def _random_latents(count: int, dimension: int, rngs: Sequence[torch.Generator]) -> Tensor:
    """Standard normal latents [R, count, dimension]."""
    return torch.stack([torch.randn(count, dimension, generator=rng) for rng in rngs])


def _from_pools(
    inputs: Sequence[PoolInputs], count: int, rngs: Sequence[torch.Generator], device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Latents [R, count, D], labels [R, count] on the CPU, and targets [R, count, K] of random images of each row's pool."""
    chosen = [torch.randint(len(pool.labels), (count,), generator=rng) for pool, rng in zip(inputs, rngs, strict=True)]
    most = max(pool.targets.shape[1] for pool in inputs)
    parts = [
        (pool.latents[rows], pool.labels[rows], F.pad(pool.targets[rows], (0, most - pool.targets.shape[1])))
        for pool, rows in zip(inputs, chosen, strict=True)
    ]
    latents, labels, targets = (torch.stack(values) for values in zip(*parts, strict=True))
    return devices.moved(latents, device), labels, devices.moved(targets, device)


@torch.no_grad()
def draw_images(
    generate: Callable[[Tensor, Tensor], Tensor], latents: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> Tensor:
    """Images uint8 [..., N, C, S, S] on the CPU of a generator, or of copies, on a device.

    ``latents`` [..., N, D] and ``labels`` int64 [..., N]; copies have a first dimension R.
    """
    images = []
    # Equal parts: the generator's BatchNorm uses batch statistics, so images of a short last batch would differ from the others.
    parts = max(1, round(labels.shape[-1] / batch_size))
    for latent, label in zip(latents.tensor_split(parts, dim=-2), labels.tensor_split(parts, dim=-1), strict=True):
        images.append((generate(latent.to(device), label.to(device)) * 255).round().to(torch.uint8))
    return torch.cat(images, dim=-4).cpu()
