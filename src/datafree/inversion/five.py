"""FIVE: train one generator so that a few steps adapt it to any teacher of a zoo.

FREE, "Faster and Better Data-Free Meta-Learning", CVPR 2024. The outer update is Reptile by default (the shared weights move towards
the adapted ones) or first-order MAML (they follow the gradient of the last inner step).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import InversionConfig, OuterUpdate
from datafree.inversion.adaptation import adapt
from datafree.inversion.generator import Generator
from datafree.progress import progress
from datafree.zoo.teachers import Teacher


def train_meta_generator(
    generator: Generator, teachers: Sequence[Teacher], config: InversionConfig, seed: int, checkpoint: Checkpoint
) -> list[dict[str, float]]:
    """Train ``generator`` in place across the teachers; returns the curve of the last inner step's terms.

    The teachers are visited in random order, each once before any comes again.
    """
    settings = config.meta_generator
    outer = torch.optim.Adam(generator.parameters(), lr=settings.outer_learning_rate, betas=(0.5, 0.999))
    start, history = checkpoint.restore(generator=generator, outer=outer)
    for step in progress(range(start, settings.outer_steps), settings.outer_steps - start, "meta-generator"):
        before = [parameter.detach().clone() for parameter in generator.parameters()]
        gradient = [torch.zeros_like(parameter) for parameter in before]
        target = [torch.zeros_like(parameter) for parameter in before]
        chosen = _teachers_of_step(len(teachers), settings.teachers_per_step, step, seed)
        rows = []
        for index in chosen:
            adapted, curve = adapt(
                generator,
                teachers[index],
                steps=settings.inner_steps,
                learning_rate=settings.inner_learning_rate,
                batch_size=settings.batch_size,
                shift=config.shift,
                weights=config.loss,
                seed=devices.derive_seed(seed, "meta_generator", step, index),
            )
            for slot, parameter in enumerate(adapted.parameters()):
                target[slot] += parameter.detach() / len(chosen)
                if parameter.grad is not None:
                    gradient[slot] += parameter.grad / len(chosen)
            rows.append(curve[-1])
        if settings.update is OuterUpdate.reptile:
            rate = settings.outer_learning_rate * (1 - 0.9 * step / max(1, settings.outer_steps - 1))
            _interpolate(generator, before, target, rate)
        else:
            for parameter, value in zip(generator.parameters(), gradient, strict=True):
                parameter.grad = value
            outer.step()
        history.append({name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} | {"step": step + 1})
        checkpoint.save(step + 1, history, generator=generator, outer=outer)
    return history


@torch.no_grad()
def _interpolate(generator: Generator, before: list[torch.Tensor], target: list[torch.Tensor], rate: float) -> None:
    """Reptile (Nichol et al., 2018): θ ← θ + rate · (θ′ − θ)."""
    for parameter, old, new in zip(generator.parameters(), before, target, strict=True):
        parameter.copy_(old + rate * (new - old))


def _teachers_of_step(count: int, per_step: int, step: int, seed: int) -> list[int]:
    """Indices of the teachers of one outer step: consecutive places in an endless sequence of random permutations."""
    chosen = []
    for place in range(step * per_step, (step + 1) * per_step):
        order = torch.randperm(count, generator=devices.generator(seed, "order", place // count))
        chosen.append(int(order[place % count]))
    return chosen
