"""Method ``generator``: one generator per teacher, adapted from the meta-generator (FIVE) or from weights of its own, draws the pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import GeneratorInversion, Initialisation, InversionConfig
from datafree.inversion.contrastive import ContrastiveMemory
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.inner_loop import QUIET, Inner, Slots, adapt, balanced_labels, draw_images, soft_labels
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.objective import ExtraTerm
from datafree.inversion.recovered import Recovered
from datafree.inversion.student import Student
from datafree.zoo.teachers import Teacher

CHANNELS = 3  # teachers of grey images see the average


def recover(
    teacher: Teacher,
    method: GeneratorInversion,
    shared: InversionConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
    auxiliary_teachers: Sequence[Teacher] = (),
) -> Recovered:
    """Adapt a generator in ``method.steps`` steps, then draw ``shared.images_per_class`` images of every class from it.

    Args:
        size: pixels of the square images.
        start: the meta-generator, for ``initialisation: meta``.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    if method.initialisation is Initialisation.random:
        shape = {"latent": method.latent, "width": method.width, "classes": len(teacher.classes), "channels": CHANNELS}
        own = devices.derive_seed(seed, "initialisation")
        start = new_generator(**shape, size=size, conditional=method.conditional, seed=own)
    assert start is not None
    start = start.to(teacher.normalise.mean.device)
    if not method.diversity:
        shared = replace(shared, loss=replace(shared.loss, diversity=0.0))
    extras = _extra_terms(teacher, method, size, devices.derive_seed(seed, "extras"))
    way = _batch_by_batch if method.latent_learning_rate else _round_by_round
    images, labels, history = way(start, teacher, auxiliary_teachers, method, shared, extras, seed, checkpoint)
    return Recovered(images, labels, soft_labels(teacher, images), history)


class Kept:
    """Tensors of the parts of a recovery that are done, for its checkpoint."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.tensors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensors = dict(state)


def _round_by_round(
    start: Generator,
    teacher: Teacher,
    auxiliary_teachers: Sequence[Teacher],
    method: GeneratorInversion,
    shared: InversionConfig,
    extras: list[ExtraTerm],
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """One generator draws the whole pool; with several rounds, each starts anew and aims at the answers to the last one's images."""
    inner = Inner(method.steps, method.learning_rate, method.batch_size)
    labels = balanced_labels(len(teacher.classes), shared.images_per_class * len(teacher.classes))
    kept, history = Kept(), []
    objects = {"kept": kept, **{extra.name: extra for extra in extras}}
    several = method.calibration_rounds > 1
    first, history = checkpoint.restore(**objects) if several else (0, [])
    for turn in range(first, method.calibration_rounds):
        name = devices.derive_seed(seed, "round", turn)
        latents = torch.randn(len(labels), start.latent, generator=devices.generator(name, "pool"))
        targets = calibrated_targets(labels, kept.tensors.get("answers"), len(teacher.classes))
        adapted = adapt(
            start, teacher, inner, shared, seed=name, auxiliary_teachers=auxiliary_teachers, extras=extras,
            slots=Slots(latents, labels, targets) if turn else None, checkpoint=QUIET if several else checkpoint,
        )  # fmt: skip
        images = draw_images(adapted.generator, latents, labels, method.batch_size)
        history += _continued(adapted.history, len(history))
        kept.tensors = {"images": images, "answers": soft_labels(teacher, images)}
        if several:
            checkpoint.save(turn + 1, history, **objects)
    return kept.tensors["images"], labels, history


def _batch_by_batch(
    start: Generator,
    teacher: Teacher,
    auxiliary_teachers: Sequence[Teacher],
    method: GeneratorInversion,
    shared: InversionConfig,
    extras: list[ExtraTerm],
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """FREE's way: a batch of images is recovered by a generator and latents of its own, both optimised."""
    inner = Inner(method.steps, method.learning_rate, method.batch_size, method.latent_learning_rate)
    labels = balanced_labels(len(teacher.classes), shared.images_per_class * len(teacher.classes))
    parts = labels.tensor_split(max(1, round(len(labels) / method.batch_size)))
    kept = Kept()
    objects = {"kept": kept, **{extra.name: extra for extra in extras}}
    first, history = checkpoint.restore(**objects)
    for number in range(first, len(parts)):
        name = devices.derive_seed(seed, "part", number)
        adapted = adapt(
            start, teacher, inner, shared, seed=name, auxiliary_teachers=auxiliary_teachers, labels=parts[number], extras=extras
        )
        kept.tensors[str(number)] = draw_images(adapted.generator, adapted.latents, adapted.labels, len(adapted.labels))
        history += _continued(adapted.history, len(history))
        checkpoint.save(number + 1, history, **objects)
    return torch.cat([kept.tensors[str(number)] for number in range(len(parts))]), labels, history


def _continued(history: list[dict[str, float]], done: int) -> list[dict[str, float]]:
    return [{**row, "step": row["step"] + done} for row in history]


def _extra_terms(teacher: Teacher, method: GeneratorInversion, size: int, seed: int) -> list[ExtraTerm]:
    extras: list[ExtraTerm] = []
    if method.adversarial:
        extras.append(Student([teacher], method.adversarial, size, seed))
    if method.contrastive:
        temperature, memory = method.contrastive_temperature, method.contrastive_memory
        extras.append(ContrastiveMemory(teacher, method.contrastive, temperature, memory, seed))
    return extras
