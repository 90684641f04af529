"""Method ``generator``: train a generator on one teacher, from the meta-generator (FIVE) or random weights, and draw the pool from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import GeneratorInversion, Initialisation, RecoveryConfig
from datafree.inversion.contrastive import ContrastiveMemory
from datafree.inversion.generator import Generator, new_generator
from datafree.inversion.inner_loop import InnerLoopConfig, PoolInputs, balanced_labels, draw_images, run_inner_loop
from datafree.inversion.label_calibration import calibrated_targets
from datafree.inversion.objective import ExtraTerm
from datafree.inversion.recovered import Recovered
from datafree.inversion.student import Student
from datafree.zoo.teachers import Teacher, soft_labels

CHANNELS = 3  # teachers of grey images get the channels' average


def recover(
    teacher: Teacher,
    method: GeneratorInversion,
    shared: RecoveryConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
    auxiliary_teachers: Sequence[Teacher] = (),
) -> Recovered:
    """Train a generator for ``method.steps`` steps, then draw ``shared.images_per_class`` images of every class from it.

    ``start`` is the meta-generator; it is used with ``initialisation: meta``. With ``latent_learning_rate`` every batch of images has a
    generator and latents of its own.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    if method.initialisation is Initialisation.random:
        # The configuration gives the shape, its own or that of the meta-generator.
        assert method.latent is not None and method.width is not None and method.conditional is not None
        shape = {"latent": method.latent, "width": method.width, "classes": len(teacher.classes), "channels": CHANNELS}
        weights_seed = devices.derive_seed(seed, "initialisation")
        start = new_generator(**shape, size=size, conditional=method.conditional, seed=weights_seed)
    assert start is not None
    start = start.to(teacher.normalise.mean.device)
    if not method.diversity:
        shared = replace(shared, loss=replace(shared.loss, diversity=0.0))
    extras = _extra_terms(teacher, method, size, devices.derive_seed(seed, "extras"))
    recover_pool = _recover_in_batches if method.latent_learning_rate else _recover_whole_pool
    images, labels, history = recover_pool(start, teacher, auxiliary_teachers, method, shared, extras, seed, checkpoint)
    return Recovered(images, labels, soft_labels(teacher, images), history)


class TensorState:
    """Tensors by name as an object that a checkpoint can save."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.tensors)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tensors = dict(state)


def _recover_whole_pool(
    start: Generator,
    teacher: Teacher,
    auxiliary_teachers: Sequence[Teacher],
    method: GeneratorInversion,
    shared: RecoveryConfig,
    extras: list[ExtraTerm],
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """One generator for the whole pool; its labels in the order of ``balanced_labels``.

    With several calibration rounds, each trains a new copy of ``start`` towards the teacher predictions for the previous round's images.
    """
    config = InnerLoopConfig(method.steps, method.learning_rate, method.batch_size)
    labels = balanced_labels(len(teacher.classes), shared.images_per_class * len(teacher.classes))
    done = TensorState()
    state = {"done": done, **{extra.name: extra for extra in extras}}
    several = method.calibration_rounds > 1
    first, history = checkpoint.restore(**state) if several else (0, [])
    for number in range(first, method.calibration_rounds):
        round_seed = devices.derive_seed(seed, "round", number)
        latents = torch.randn(len(labels), start.latent, generator=devices.generator(round_seed, "pool"))
        targets = calibrated_targets(labels, done.tensors.get("predictions"), len(teacher.classes))
        result = run_inner_loop(
            start, teacher, config, shared, seed=round_seed, auxiliary_teachers=auxiliary_teachers, extras=extras,
            inputs=PoolInputs(latents, labels, targets) if number else None, checkpoint=None if several else checkpoint,
        )  # fmt: skip
        images = draw_images(result.generator, latents, labels, method.batch_size)
        history += _numbered_from(len(history), result.history)
        done.tensors = {"images": images, "predictions": soft_labels(teacher, images)}
        if several:
            checkpoint.save(number + 1, history, **state)
    return done.tensors["images"], labels, history


def _recover_in_batches(
    start: Generator,
    teacher: Teacher,
    auxiliary_teachers: Sequence[Teacher],
    method: GeneratorInversion,
    shared: RecoveryConfig,
    extras: list[ExtraTerm],
    seed: int,
    checkpoint: Checkpoint,
) -> tuple[Tensor, Tensor, list[dict[str, float]]]:
    """As in FREE: every batch of images has its own generator and latents, both optimised."""
    config = InnerLoopConfig(method.steps, method.learning_rate, method.batch_size, method.latent_learning_rate)
    labels = balanced_labels(len(teacher.classes), shared.images_per_class * len(teacher.classes))
    parts = labels.tensor_split(max(1, round(len(labels) / method.batch_size)))
    done = TensorState()
    state = {"done": done, **{extra.name: extra for extra in extras}}
    first, history = checkpoint.restore(**state)
    for number in range(first, len(parts)):
        result = run_inner_loop(
            start, teacher, config, shared, seed=devices.derive_seed(seed, "part", number), auxiliary_teachers=auxiliary_teachers,
            labels=parts[number], extras=extras,
        )  # fmt: skip
        done.tensors[str(number)] = draw_images(result.generator, result.latents, result.labels, len(result.labels))
        history += _numbered_from(len(history), result.history)
        checkpoint.save(number + 1, history, **state)
    return torch.cat([done.tensors[str(number)] for number in range(len(parts))]), labels, history


def _numbered_from(offset: int, history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{**row, "step": row["step"] + offset} for row in history]


def _extra_terms(teacher: Teacher, method: GeneratorInversion, size: int, seed: int) -> list[ExtraTerm]:
    extras: list[ExtraTerm] = []
    if method.adversarial:
        extras.append(Student([teacher], method.adversarial, size, seed))
    if method.contrastive:
        temperature, memory = method.contrastive_temperature, method.contrastive_memory
        extras.append(ContrastiveMemory(teacher, method.contrastive, temperature, memory, seed))
    return extras
