"""Method ``pixels``: pixel inversion (DeepInversion), images as free parameters under Adam.

Yin et al., "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion", CVPR 2020: cross-entropy, BatchNorm statistics
(eq. 4), total variation and ℓ2 (eq. 3); with a student (``competition``) it is Adaptive DeepInversion (eq. 5 and 6).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.config import InversionLossConfig, PixelInversion, RecoveryConfig
from datafree.errors import UserError
from datafree.inversion.chunks import alike, in_chunks, rows_that_fit
from datafree.inversion.generator import Generator
from datafree.inversion.inner_loop import balanced_labels
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.losses import jensen_shannon
from datafree.inversion.objective import ExtraTerm, weighted
from datafree.inversion.pixel_parameters import PixelParameters, SavedPixels, coarse_steps, stage_share
from datafree.inversion.recovered import Outcome, Outcomes, Recovered, Recovery
from datafree.inversion.rows import Row
from datafree.inversion.stacked_objective import objective_of
from datafree.inversion.step_history import StepHistory
from datafree.inversion.student import Student
from datafree.progress import progress
from datafree.zoo.teachers import Teacher, soft_labels

TEMPERATURE = 3.0  # of teacher and student logits in the competition term, as in the authors' code


def recover(
    recoveries: Sequence[Recovery], method: PixelInversion, shared: RecoveryConfig, *, size: int, start: Generator | None, together: bool
) -> Outcomes:
    """Pools of ``shared.images_per_class`` images per class, ``size`` pixels square; ``start`` is not used.

    The images are optimised in batches of about ``method.batch_size``, each starting from its own noise. For the first ``method.coarse`` of
    a batch's steps the images have half the size and are resized to the teacher's input; then they are enlarged. (The authors' code passes
    smaller images to the teacher, which networks of a fixed input size do not accept.) With ``method.calibration_rounds`` > 1 the whole
    pool is optimised that many times, from new noise; see ``calibrated_targets``.
    """
    pools = [PixelPool(index, recovery, method, shared, size) for index, recovery in enumerate(recoveries)]
    if not together or method.competition:
        for pool in pools:
            passes = [[part] for part in range(len(pool.parts))]
            yield from optimise([pool.started_again(passes)], method, shared, size, passes, together=False)
        return
    for group in alike(pools, lambda pool: pool.teacher, lambda pool: (tuple(map(len, pool.parts)), pool.auxiliary, pool.first)):
        parts = group[0].parts_of_equal_size()

        def work(chunk: Sequence[PixelPool], rows: int, parts: list[list[int]] = parts) -> list[tuple[int, Outcome]]:
            passes = [of_size[first : first + rows] for of_size in parts for first in range(0, len(of_size), rows)]
            return list(optimise([pool.started_again(passes) for pool in chunk], method, shared, size, passes, together=True))

        yield from in_chunks(group, work, rows_that_fit(group[0].teacher, method.batch_size), max(map(len, parts)))


class PixelPool:
    """One teacher's pool while it is recovered: its batches (``parts``), the finished ones, and its history.

    ``first`` is the iteration to continue with, after those of the checkpoint; iterations are the steps of all batches of all rounds.
    """

    def __init__(
        self, index: int, recovery: Recovery, method: PixelInversion, shared: RecoveryConfig, size: int, *, resume: bool = True
    ) -> None:
        self._arguments = (index, recovery, method, shared, size)
        self.index, self.teacher, self.seed, self.recovery = index, recovery.teacher, recovery.seed, recovery
        self.device = self.teacher.normalise.mean.device
        self.labels = balanced_labels(len(self.teacher.classes), len(self.teacher.classes) * shared.images_per_class)
        # Equal parts: the loss compares batch statistics, which a short last batch would match worse.
        self.parts = self.labels.tensor_split(math.ceil(len(self.labels) / method.batch_size))
        self.auxiliary = min(shared.auxiliary_teachers, len(recovery.auxiliary_teachers))  # of a step
        self.saved = SavedPixels()
        self.extras: list[ExtraTerm] = []
        if method.competition:
            self.extras.append(CompetitionStudent([self.teacher], method.competition, size, devices.derive_seed(self.seed, "student")))
        self.first, self.history = recovery.checkpoint.restore(**self.state) if resume else (0, [])
        self.error: UserError | None = None

    @property
    def state(self) -> dict[str, Any]:
        return {"parameters": self.saved, **{extra.name: extra for extra in self.extras}}

    def started_again(self, passes: list[list[int]]) -> PixelPool:
        """The pool at the position of its checkpoint, if that was written with the same passes, otherwise at the beginning."""
        pool = PixelPool(*self._arguments)
        if pool.first and pool.saved.passes != passes:  # the device had another amount of free memory
            pool = PixelPool(*self._arguments, resume=False)
        pool.saved.passes = passes
        return pool

    def parts_of_equal_size(self) -> list[list[int]]:
        """The numbers of the parts in groups of one size."""
        sizes = [len(part) for part in self.parts]
        return [[number for number, of_part in enumerate(sizes) if of_part == wanted] for wanted in dict.fromkeys(sizes)]

    def targets(self, part: int) -> Tensor:
        """Target probabilities of a part, from the predictions for its images of the previous round."""
        predictions = soft_labels(self.teacher, self.saved.finished[part])
        return calibrated_targets(self.parts[part], predictions, len(self.teacher.classes))

    def recovered(self) -> Recovered:
        images = torch.cat(self.saved.finished)
        history = sorted(self.history, key=lambda row: row["step"])  # of batches that were optimised at the same time
        return Recovered(images, self.labels, soft_labels(self.teacher, images), history)


def optimise(
    pools: Sequence[PixelPool], method: PixelInversion, shared: RecoveryConfig, size: int, passes: list[list[int]], *, together: bool
) -> Outcomes:
    """Recover pools whose batches have equal sizes; in each pass, the given parts of all pools are optimised at the same time."""
    parameters = PixelParameters(pools[0].device, method.learning_rate, betas=(0.5, 0.9))
    weights, extras = _weights(method, shared), pools[0].extras
    coarse, steps, first = coarse_steps(method.coarse, method.steps), method.steps, pools[0].first
    total = method.calibration_rounds * len(passes) * steps
    label = f"pixels of {pools[0].teacher.name if len(pools) == 1 else f'{len(pools)} teachers'}"
    batch = None
    for iteration in progress(range(first, total), total - first, label):
        number, step = divmod(iteration, steps)
        if batch is None or step == 0:
            batch = _Batch(pools, passes[number % len(passes)], number // len(passes), method, weights, shared, together)
        rngs = batch.generators(step)
        if step == 0:
            shape = (batch.labels.shape[1], 3, *[size // 2 if coarse else size] * 2)
            parameters.place(torch.stack([torch.randn(shape, generator=rng) for rng in rngs]))
        elif iteration == first:
            parameters.restore([pool.saved.current for pool in pools])
        if step == coarse > 0:
            parameters.enlarge(size)
        result = batch.objective(parameters.images(), batch.labels, rngs, targets=batch.targets, flip=method.flip)
        parameters.step(weighted(result.terms, weights, extras), stage_share(step, coarse, steps), result.changeable)
        batch.objective.learn()
        batch.record(step, result.terms)
        if step == steps - 1:
            batch.finish(parameters)
        if any(pool.recovery.checkpoint.due for pool in pools):
            batch.save(iteration + 1, parameters if step < steps - 1 else None)
        if all(pool.error for pool in pools):
            break
    for pool in pools:
        yield pool.index, pool.error or pool.recovered()


class _Batch:
    """The rows of one pass: some parts of every pool."""

    def __init__(
        self, pools: Sequence[PixelPool], parts: Sequence[int], calibration: int, method: PixelInversion, weights: InversionLossConfig,
        shared: RecoveryConfig, together: bool,
    ) -> None:  # fmt: skip
        self.pools, self.parts, self.calibration, self.steps = pools, parts, calibration, method.steps
        self.members = [(pool, part) for pool in pools for part in parts]
        rows = [Row(pool.teacher, pool.seed, pool.recovery.auxiliary_teachers) for pool, _ in self.members]
        self.objective = objective_of(rows, weights, shared, together=together, extras=pools[0].extras)
        self.labels = torch.stack([pool.parts[part] for pool, part in self.members])
        self.targets = None
        if calibration:
            targets, most = [pool.targets(part) for pool, part in self.members], max(len(pool.teacher.classes) for pool in pools)
            self.targets = torch.stack([F.pad(of_row, (0, most - of_row.shape[1])) for of_row in targets]).to(pools[0].device)
        labels = [f"pixels of {pool.teacher.name}" for pool, _ in self.members]
        self.history = StepHistory(labels, [pool.history for pool, _ in self.members], pools[0].device)

    def generators(self, step: int) -> list[torch.Generator]:
        return [devices.generator(pool.seed, "pixels", self.calibration, part, step) for pool, part in self.members]

    def record(self, step: int, terms: Mapping[str, Tensor]) -> None:
        """Add the terms of a step to the pools' histories, where a pool has the steps of its rounds and parts one after the other."""
        self.history.add([(self.calibration * len(pool.parts) + part) * self.steps + step + 1 for pool, part in self.members], terms)
        self._note_errors()

    def _note_errors(self) -> None:
        for (pool, _), error in zip(self.members, self.history.errors, strict=True):
            pool.error = pool.error or error

    def finish(self, parameters: PixelParameters) -> None:
        self.history.read()
        self._note_errors()
        for (pool, part), images in zip(self.members, parameters.finished(), strict=True):
            pool.saved.finish(part, images)

    def save(self, iteration: int, parameters: PixelParameters | None) -> None:
        """Write all checkpoints, so that the pools can continue together; without ``parameters`` if the pass is finished."""
        self.history.read()
        self._note_errors()
        for place, pool in enumerate(self.pools):
            rows = slice(place * len(self.parts), (place + 1) * len(self.parts))
            pool.saved.current = parameters.state(rows) if parameters else {}
            if not pool.error:
                pool.recovery.checkpoint.write(iteration, pool.history, **pool.state)


def _weights(method: PixelInversion, shared: RecoveryConfig) -> InversionLossConfig:
    return replace(
        shared.loss,
        total_variation=method.total_variation,
        squared_norm=method.squared_norm,
        diversity=shared.loss.diversity if method.diversity else 0.0,
    )


class CompetitionStudent(Student):
    """Adaptive DeepInversion's student: its term moves images to where its predictions differ from the teacher's."""

    name = "competition"

    def term(self, images: Tensor, labels: Tensor, teacher: Teacher, rng: torch.Generator) -> Tensor:
        """1 − JS(teacher ‖ student), a scalar in [0, 1], of images float [B, 3, S, S] in [0, 1]."""
        predictions = teacher.network(teacher.normalise(255 * images))
        return 1 - jensen_shannon(predictions / TEMPERATURE, self(images, teacher) / TEMPERATURE)
