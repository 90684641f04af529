"""Meta-generator (FIVE): train one generator so that a few inner-loop steps fit it to any teacher of a zoo.

FREE, "Faster and Better Data-Free Meta-Learning", CVPR 2024. The outer update is Reptile by default (the shared weights move towards
those of the inner loop) or first-order MAML: with the gradient of the last inner step, as in FREE's released code, or the mean over all
inner steps, as in Fast-Datafree (Fang et al., AAAI 2022).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionStepConfig, MetaGeneratorConfig, OuterUpdate
from datafree.inversion.chunks import alike
from datafree.inversion.generator import Generator
from datafree.inversion.generator_copies import GeneratorCopies
from datafree.inversion.inner_loop import InnerLoopConfig, run_inner_loop
from datafree.inversion.rows import OtherTeachers, Row
from datafree.inversion.step_history import StepHistory
from datafree.inversion.student import Student
from datafree.progress import progress
from datafree.zoo.plausibility import has_trained_statistics
from datafree.zoo.teachers import Teacher


def train_meta_generator(
    generator: Generator,
    teachers: Sequence[Teacher],
    settings: MetaGeneratorConfig,
    shared: InversionStepConfig,
    seed: int,
    checkpoint: Checkpoint,
    *,
    together: bool = False,
) -> list[dict[str, float]]:
    """Train ``generator`` in place over the teachers; ``shared`` has the settings of the inner steps.

    Returns one row per outer step: the loss terms of the last inner step, the mean over the step's teachers. The teachers are visited in
    random order, each once before any is repeated. ``together``: the inner loops of a step's teachers of one architecture run in one pass.

    Raises:
        UserError: the loss became NaN or infinite.
    """
    candidates = tuple(teacher for teacher in teachers if has_trained_statistics(teacher.network))
    places = {id(teacher): place for place, teacher in enumerate(candidates)}
    inner = InnerLoopConfig(settings.inner_steps, settings.inner_learning_rate, settings.batch_size, settings.latent_learning_rate)
    outer = _outer_optimiser(generator, settings)
    extras = []
    if settings.adversarial:
        extras.append(Student(teachers, settings.adversarial, generator.size, devices.derive_seed(seed, "student")))
    together = together and not extras  # the student learns from one teacher after the other
    start, history = checkpoint.restore(generator=generator, outer=outer, **{extra.name: extra for extra in extras})
    unread: list[tuple[int, list[StepHistory]]] = []

    def auxiliary_of(row: Row) -> int:
        return min(shared.auxiliary_teachers, len(row.auxiliary_teachers))

    for step in progress(range(start, settings.outer_steps), settings.outer_steps - start, "meta-generator"):
        displacement = [torch.zeros_like(parameter) for parameter in generator.parameters()]
        gradient = OuterGradient(generator, settings.update)
        chosen = _teachers_of_step(len(teachers), settings.teachers_per_step, step, seed)
        rows = [
            Row(
                teachers[index],
                devices.derive_seed(seed, "meta_generator", step, index),
                OtherTeachers(candidates, places.get(id(teachers[index]))),
            )
            for index in chosen
        ]
        unread.append((step, []))
        for group in alike(rows, lambda row: row.teacher, auxiliary_of) if together else [[row] for row in rows]:
            result = run_inner_loop(
                [generator] * len(group), group, inner, shared, together=len(group) > 1, extras=extras, each_step=gradient.add_step
            )
            gradient.finish_teachers()
            for total, before, after in zip(displacement, generator.parameters(), result.copies.parameters(), strict=True):
                total += (after.detach() - before.detach()).sum(0) / len(chosen)
            unread[-1][1].append(result.history)
        if settings.update is OuterUpdate.reptile:
            _interpolate(generator, displacement, settings.outer_learning_rate * (1 - 0.9 * step / max(1, settings.outer_steps - 1)))
        else:
            if settings.fresh_optimiser:
                outer = _outer_optimiser(generator, settings)
            for parameter, total in zip(generator.parameters(), gradient.total, strict=True):
                parameter.grad = total / len(chosen)
            outer.step()
        if checkpoint.due or len(unread) * settings.inner_steps >= unread[0][1][0].every or step == settings.outer_steps - 1:
            history += [_mean_of_last_steps(number, histories) for number, histories in unread]
            unread = []
            checkpoint.save(step + 1, history, generator=generator, outer=outer, **{extra.name: extra for extra in extras})
    return history


def _mean_of_last_steps(step: int, histories: Sequence[StepHistory]) -> dict[str, float]:
    """The row of an outer step: the terms of the last inner step of its teachers, on average.

    Raises:
        UserError: a loss was NaN or infinite.
    """
    rows = []
    for history in histories:
        history.read()
        for error in filter(None, history.errors):
            raise error
        rows += [of_row[-1] for of_row in history.rows]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | {"step": step + 1}


class OuterGradient:
    """First-order MAML's gradient, summed over the teachers of an outer step: that of a teacher's last inner step, or the mean over all.

    ``total`` has one tensor per parameter; it stays zero for Reptile.
    """

    def __init__(self, generator: Generator, update: OuterUpdate) -> None:
        self.update = update
        self.total = [torch.zeros_like(parameter) for parameter in generator.parameters()]
        self._steps: list[list[torch.Tensor]] = []

    def add_step(self, trained: GeneratorCopies) -> None:
        """Record the gradients of one inner step, summed over the copies."""
        if self.update is OuterUpdate.reptile:
            return
        gradients = [torch.zeros_like(p[0]) if p.grad is None else p.grad.sum(0) for p in trained.parameters()]
        self._steps = [*self._steps, gradients] if self.update is OuterUpdate.fomaml_mean else [gradients]

    def finish_teachers(self) -> None:
        """Add the gradient of some teachers to the total, after their inner loops."""
        for gradients in self._steps:
            for total, gradient in zip(self.total, gradients, strict=True):
                total += gradient / len(self._steps)
        self._steps = []


def _outer_optimiser(generator: Generator, settings: MetaGeneratorConfig) -> torch.optim.Adam:
    return torch.optim.Adam(generator.parameters(), lr=settings.outer_learning_rate, betas=(0.5, 0.999))


@torch.no_grad()
def _interpolate(generator: Generator, displacement: list[torch.Tensor], rate: float) -> None:
    """Reptile (Nichol et al., 2018): θ ← θ + rate · (θ′ − θ)."""
    for parameter, difference in zip(generator.parameters(), displacement, strict=True):
        parameter += rate * difference


def _teachers_of_step(count: int, per_step: int, step: int, seed: int) -> list[int]:
    """Indices of the teachers of one outer step: consecutive elements of an endless sequence of random permutations."""
    chosen = []
    for place in range(step * per_step, (step + 1) * per_step):
        order = torch.randperm(count, generator=devices.generator(seed, "order", place // count))
        chosen.append(int(order[place % count]))
    return chosen
