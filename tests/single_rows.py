"""An inner loop on a single teacher, and its results without the dimension of the rows."""

from dataclasses import dataclass

import torch

from datafree.inversion.generator import Generator
from datafree.inversion.inner_loop import run_inner_loop
from datafree.inversion.rows import OtherTeachers, Row


@dataclass(frozen=True)
class Adapted:
    generator: Generator
    history: list[dict[str, float]]
    latents: torch.Tensor
    labels: torch.Tensor


def inner_loop(generator, teacher, config, shared, *, seed, auxiliary_teachers=(), labels=None, inputs=None, **settings) -> Adapted:
    result = run_inner_loop(
        [generator], [Row(teacher, seed, OtherTeachers(tuple(auxiliary_teachers), None))], config, shared,
        labels=None if labels is None else labels[None], inputs=None if inputs is None else [inputs], **settings,
    )  # fmt: skip
    latents, labels = result.copies.latents.detach()[0], result.labels[0]
    return Adapted(result.copies.generator(0), result.history.rows[0], latents, labels)
