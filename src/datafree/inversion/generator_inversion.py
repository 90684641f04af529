"""Method ``generator``: train a generator on one teacher, from the meta-generator (FIVE) or random weights, and draw the pool from it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import SavedState
from datafree.config import GeneratorInversion, Initialisation, RecoveryConfig
from datafree.errors import UserError
from datafree.inversion.chunks import alike, in_chunks, rows_that_fit
from datafree.inversion.contrastive import ContrastiveMemory
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.inner_loop import (
    InnerLoopConfig,
    InnerLoopResult,
    PoolInputs,
    RowCheckpoint,
    balanced_labels,
    draw_images,
    run_inner_loop,
)
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.objective import ExtraTerm
from datafree.inversion.recovered import Outcomes, Recovered, Recovery
from datafree.inversion.rows import Row
from datafree.inversion.student import Student
from datafree.zoo.teachers import Teacher, soft_labels

CHANNELS = 3  # teachers of grey images get the channels' average


def recover(
    recoveries: Sequence[Recovery],
    method: GeneratorInversion,
    shared: RecoveryConfig,
    *,
    size: int,
    start: Generator | None,
    together: bool,
) -> Outcomes:
    """Train a generator for ``method.steps`` steps per teacher, then draw ``shared.images_per_class`` images of every class from it.

    ``start`` is the meta-generator; it is used with ``initialisation: meta``. With ``latent_learning_rate`` every batch of images has a
    generator and latents of its own. With several calibration rounds, each trains a new copy towards the teacher predictions for the
    previous round's images.
    """
    if not method.diversity:
        shared = replace(shared, loss=replace(shared.loss, diversity=0.0))
    pools = [GeneratorPool(index, recovery, method, shared, size, start) for index, recovery in enumerate(recoveries)]
    if not together or method.adversarial or method.contrastive:
        for pool in pools:
            yield from _optimise([pool], method, shared, together=False)
        return
    for group in alike(pools, lambda pool: pool.teacher, lambda pool: pool.shape):
        most = rows_that_fit(group[0].teacher, method.batch_size)
        yield from in_chunks(
            group, lambda chunk, rows: list(_optimise([pool.started_again() for pool in chunk], method, shared, together=True)), most
        )


class GeneratorPool:
    """One teacher's pool while it is recovered: its generator's initial weights, finished images by part or round, and its history.

    ``first`` is the part or round to continue with; if the pool has only one, ``row`` is the checkpoint of its inner loop.
    """

    def __init__(
        self, index: int, recovery: Recovery, method: GeneratorInversion, shared: RecoveryConfig, size: int, start: Generator | None
    ) -> None:
        self._arguments = (index, recovery, method, shared, size, start)
        self.index, self.teacher, self.seed, self.recovery = index, recovery.teacher, recovery.seed, recovery
        self.device = self.teacher.normalise.mean.device
        self.start = _initial_generator(recovery, method, size, start).to(self.device)
        self.extras = _extra_terms(self.teacher, method, size, devices.derive_seed(self.seed, "extras"))
        self.labels = balanced_labels(len(self.teacher.classes), shared.images_per_class * len(self.teacher.classes))
        parts = max(1, round(len(self.labels) / method.batch_size)) if method.latent_learning_rate else 1
        self.parts = self.labels.tensor_split(parts)
        self.auxiliary = min(shared.auxiliary_teachers, len(recovery.auxiliary_teachers))  # of a step
        self.done, self.error, self.row = SavedState(), None, None
        self.state = {"done": self.done, **{extra.name: extra for extra in self.extras}}
        if method.latent_learning_rate or method.calibration_rounds > 1:
            self.first, self.history = recovery.checkpoint.restore(**self.state)
        else:
            self.row = RowCheckpoint(recovery.checkpoint, self.extras)
            self.first, self.history = 0, []

    error: UserError | None
    row: RowCheckpoint | None

    @property
    def position(self) -> int:
        """The step, part or round to continue with."""
        return self.row.first if self.row else self.first

    @property
    def shape(self) -> tuple[Any, ...]:
        """What is equal for pools that are computed in one pass: generators, batches, terms and position."""
        batches = tuple(map(len, self.parts)) if len(self.parts) > 1 else ()
        return self.start.classes, batches, self.auxiliary, self.position

    def started_again(self) -> GeneratorPool:
        """The pool at the position of its checkpoint."""
        return GeneratorPool(*self._arguments)

    def add(self, history: list[dict[str, float]], error: UserError | None) -> None:
        """The history and the error of an inner loop."""
        offset = len(self.history)
        self.history += [{**row, "step": row["step"] + offset} for row in history]
        self.error = self.error or error

    def recovered(self) -> Recovered:
        images = self.done.values["images"]
        return Recovered(images, self.labels, soft_labels(self.teacher, images), self.history)


def _initial_generator(recovery: Recovery, method: GeneratorInversion, size: int, start: Generator | None) -> Generator:
    if method.initialisation is not Initialisation.random:
        assert start is not None
        return start
    # The configuration gives the shape, its own or that of the meta-generator.
    assert method.latent is not None and method.width is not None and method.conditional is not None
    shape = {"latent": method.latent, "width": method.width, "classes": len(recovery.teacher.classes), "channels": CHANNELS}
    return new_generator(**shape, size=size, conditional=method.conditional, seed=devices.derive_seed(recovery.seed, "initialisation"))


def _optimise(pools: Sequence[GeneratorPool], method: GeneratorInversion, shared: RecoveryConfig, *, together: bool) -> Outcomes:
    (_in_batches if method.latent_learning_rate else _in_rounds)(pools, method, shared, together)
    for pool in pools:
        yield pool.index, pool.error or pool.recovered()


def _in_rounds(pools: Sequence[GeneratorPool], method: GeneratorInversion, shared: RecoveryConfig, together: bool) -> None:
    """One generator for the whole pool; its labels in the order of ``balanced_labels``."""
    config = InnerLoopConfig(method.steps, method.learning_rate, method.batch_size)
    for number in range(pools[0].first, method.calibration_rounds):
        seeds = [devices.derive_seed(pool.seed, "round", number) for pool in pools]
        inputs = []
        for pool, seed in zip(pools, seeds, strict=True):
            latents = torch.randn(len(pool.labels), pool.start.latent, generator=devices.generator(seed, "pool"))
            targets = calibrated_targets(pool.labels, pool.done.values.get("predictions"), len(pool.teacher.classes))
            inputs.append(PoolInputs(latents, pool.labels, targets))
        result = run_inner_loop(
            [pool.start for pool in pools], _rows(pools, seeds), config, shared, together=together, extras=pools[0].extras,
            inputs=inputs if number else None, checkpoints=[pool.row for pool in pools if pool.row],
        )  # fmt: skip
        result.history.read()
        drawn = _draw(result, [(of_pool.latents, of_pool.labels) for of_pool in inputs], method.batch_size)
        for pool, images, history, error in zip(pools, drawn, result.history.rows, result.history.errors, strict=True):
            pool.add(history, error)
            pool.done.values = {"images": images, "predictions": soft_labels(pool.teacher, images)}
        if all(pool.error for pool in pools):
            return
        if method.calibration_rounds > 1:
            _save(pools, number + 1)


def _in_batches(pools: Sequence[GeneratorPool], method: GeneratorInversion, shared: RecoveryConfig, together: bool) -> None:
    """As in FREE: every batch of images has its own generator and latents, both optimised."""
    config = InnerLoopConfig(method.steps, method.learning_rate, method.batch_size, method.latent_learning_rate)
    for number in range(pools[0].first, len(pools[0].parts)):
        seeds = [devices.derive_seed(pool.seed, "part", number) for pool in pools]
        result = run_inner_loop(
            [pool.start for pool in pools], _rows(pools, seeds), config, shared, together=together, extras=pools[0].extras,
            labels=torch.stack([pool.parts[number] for pool in pools]),
        )  # fmt: skip
        result.history.read()
        latents, labels = result.copies.latents.detach(), result.labels
        images = draw_images(result.copies, latents, labels, labels.shape[1], pools[0].device)
        for place, pool in enumerate(pools):
            pool.add(result.history.rows[place], result.history.errors[place])
            earlier = pool.done.values.get("images", images[place][:0])
            pool.done.values = {"images": torch.cat([earlier, images[place]])}
        if all(pool.error for pool in pools):
            return
        _save(pools, number + 1)


def _rows(pools: Iterable[GeneratorPool], seeds: Iterable[int]) -> list[Row]:
    return [Row(pool.teacher, seed, pool.recovery.auxiliary_teachers) for pool, seed in zip(pools, seeds, strict=True)]


def _draw(result: InnerLoopResult, inputs: Sequence[tuple[Tensor, Tensor]], batch_size: int) -> list[Tensor]:
    """The pool of each copy from its latents [N, D] and labels [N]; pools of one size together."""
    images: dict[int, Tensor] = {}
    for count in dict.fromkeys(len(labels) for _, labels in inputs):
        rows = [row for row, (_, labels) in enumerate(inputs) if len(labels) == count]
        latents, labels = (torch.stack([inputs[row][part] for row in rows]) for part in range(2))
        device = result.copies.latents.device
        images |= zip(rows, draw_images(functools.partial(result.copies, rows=rows), latents, labels, batch_size, device), strict=True)
    return [images[row] for row in range(len(inputs))]


def _save(pools: Sequence[GeneratorPool], position: int) -> None:
    """Write all checkpoints if one of them is due, so that the pools can continue together."""
    if any(pool.recovery.checkpoint.due for pool in pools):
        for pool in pools:
            if not pool.error:
                pool.recovery.checkpoint.write(position, pool.history, **pool.state)


def _extra_terms(teacher: Teacher, method: GeneratorInversion, size: int, seed: int) -> list[ExtraTerm]:
    extras: list[ExtraTerm] = []
    if method.adversarial:
        extras.append(Student([teacher], method.adversarial, size, seed))
    if method.contrastive:
        temperature, memory = method.contrastive_temperature, method.contrastive_memory
        extras.append(ContrastiveMemory(teacher, method.contrastive, temperature, memory, seed))
    return extras
