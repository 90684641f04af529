"""Teachers in stacks: predictions of several teachers, with all teachers of one architecture in one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree.zoo.backbones import fitted
from datafree.zoo.stacks import NetworkStack, stackable
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class TeacherStack:
    """Teachers of one architecture and input [C, H, W]: their networks, and their normalisations ``mean`` and ``std`` [T, 1, C, 1, 1].

    ``members`` are the teachers' positions among all teachers.
    """

    members: tuple[int, ...]
    networks: NetworkStack
    mean: Tensor
    std: Tensor
    input: tuple[int, int, int]

    def logits(self, images: Tensor, places: Sequence[int]) -> Tensor:
        """Logits [len(places), B, most classes of the stack] of the teachers at ``places`` for images in [0, 255], [B, C, H, W]."""
        index = torch.tensor(places).to(images.device, non_blocking=True)
        inputs = (fitted(images, self.input) / 255 - self.mean[index]) / self.std[index]
        return self.networks.select(index)(inputs)


class TeacherStacks:
    """All of a zoo's teachers, on one device, in one stack per architecture; copies of their weights."""

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self.stacks = [_stack(teachers, members) for members in stackable([teacher.network for teacher in teachers])]
        self._place = {member: (stack, place) for stack in self.stacks for place, member in enumerate(stack.members)}
        self.most_classes = max(len(teacher.classes) for teacher in teachers)

    def probabilities(self, images: Tensor, queried: Sequence[int]) -> Tensor:
        """Softmax [B, queried, most classes] of teachers for images in [0, 255], [B, C, H, W] of any size; 0 beyond a teacher's classes."""
        result: list[Tensor] = [images] * len(queried)
        for stack in self.stacks:
            positions = [position for position, index in enumerate(queried) if self._place[index][0] is stack]
            if positions:
                softmax = stack.logits(images, [self._place[queried[position]][1] for position in positions]).softmax(-1)
                for position, of_teacher in zip(positions, F.pad(softmax, (0, self.most_classes - softmax.shape[-1])), strict=True):
                    result[position] = of_teacher
        return torch.stack(result, 1)


def _stack(teachers: Sequence[Teacher], members: Sequence[int]) -> TeacherStack:
    chosen = [teachers[member] for member in members]
    return TeacherStack(
        members=tuple(members),
        networks=NetworkStack.of([teacher.network for teacher in chosen]),
        mean=torch.stack([teacher.normalise.mean for teacher in chosen]),
        std=torch.stack([teacher.normalise.std for teacher in chosen]),
        input=chosen[0].input,
    )
