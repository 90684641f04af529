"""Passes of many teachers about the same images on a GPU: stacks of as many teachers, and as many images, as its free memory holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datafree import devices
from datafree.zoo.hooks import output_sizes
from datafree.zoo.logits import at_least_float32
from datafree.zoo.stacks import Observation, stackable
from datafree.zoo.teacher_stacks import TeacherStack
from datafree.zoo.teachers import Teacher

FREE_SHARE = 0.4  # of the free memory, for the outputs of layers; the weights of a stack and temporary results take more
OUTPUTS = 4  # of the size of the largest one, that exist at once without gradients: input and output of a layer, of two branches of a block
BYTES = 4  # of a float32


class Pass(NamedTuple):
    """Teachers of one architecture and input: their positions, their stack, and the number of images of a pass."""

    members: list[int]
    stack: TeacherStack
    images: int


def passes(teachers: Sequence[Teacher], fewest: int, rows: int | None = None, observe: Observation | None = None) -> Iterator[Pass]:
    """All teachers, in stacks that are made one after the other.

    A pass has at least ``fewest`` images, and as many as fit: at most ``rows`` images over all its teachers, by default as many as the
    free memory of their device holds. ``observe`` as for ``NetworkStack.of``.
    """
    for positions in stackable([teacher.network for teacher in teachers]):
        most = rows or rows_that_fit(teachers[positions[0]])
        together = max(1, most // fewest)
        for first in range(0, len(positions), together):
            members = positions[first : first + together]
            yield Pass(members, TeacherStack.of([teachers[member] for member in members], observe), max(fewest, most // len(members)))


def rows_that_fit(teacher: Teacher) -> int:
    """How many images the free memory of a teacher's GPU holds in a pass without gradients, at least one."""
    return max(1, int(FREE_SHARE * devices.free_bytes(teacher.normalise.mean.device) / image_bytes(teacher)))


def image_bytes(teacher: Teacher) -> int:
    """An estimate of the memory in bytes that one image needs in a pass without gradients."""
    image = teacher.normalise.mean.new_zeros(1, *teacher.input)
    return OUTPUTS * BYTES * max(image.numel(), *output_sizes(teacher.network, image))


@torch.no_grad()
def outputs_of_all(teachers: Sequence[Teacher], images: Tensor, rows: int | None = None) -> list[tuple[Tensor, Tensor]]:
    """Each teacher's features [N, D] and logits [N, classes], at least float32, on the CPU, for uint8 images [N, C, H, W] of any size.

    All teachers of one architecture are computed in one pass per part of the images; ``rows`` as for ``passes``.
    """
    outputs: list[list[tuple[Tensor, Tensor]]] = [[] for _ in teachers]
    for members, stack, size in passes(teachers, 1, rows):
        for part in images.split(size):
            features = stack.networks.features(stack.normalise(devices.moved(part, stack.mean.device)))
            computed = (at_least_float32(features).cpu(), stack.networks.head(features).cpu())
            for member, own, logits in zip(members, *computed, strict=True):
                outputs[member].append((own, logits[:, : len(teachers[member].classes)]))
    return [(torch.cat(features), torch.cat(logits)) for features, logits in (zip(*parts, strict=True) for parts in outputs)]
