"""Teachers in stacks: all teachers of one architecture in one forward pass, each with its own normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.zoo.backbones import fitted
from datafree.zoo.stacks import NetworkStack, Observation, stackable
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class TeacherStack:
    """T teachers of one architecture and input [C, H, W]: their networks, and their normalisations ``mean`` and ``std`` [T, 1, C, 1, 1]."""

    networks: NetworkStack
    mean: Tensor
    std: Tensor
    input: tuple[int, int, int]

    @classmethod
    def of(cls, teachers: Sequence[Teacher], observe: Observation | None = None) -> TeacherStack:
        """The stack of the teachers, in their order; it has copies of their weights. ``observe``: see ``NetworkStack.of``."""
        mean, std = (torch.stack([getattr(teacher.normalise, name) for teacher in teachers]) for name in ("mean", "std"))
        return cls(NetworkStack.of([teacher.network for teacher in teachers], observe), mean, std, teachers[0].input)

    def __len__(self) -> int:
        return len(self.mean)

    def select(self, indices: Tensor) -> TeacherStack:
        """The stack of the teachers at ``indices`` int64 [T'], on the stack's device; an index may occur repeatedly."""
        return replace(
            self,
            networks=self.networks.select(indices),
            mean=self.mean.index_select(0, indices),
            std=self.std.index_select(0, indices),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """The teachers' inputs [T, B, C, H, W] for images in [0, 255] of any size: [T, B, C, S, S], or [B, C, S, S] for all teachers."""
        visible = fitted(images.flatten(0, -4), self.input).unflatten(0, images.shape[:-3])
        return (visible / 255 - self.mean) / self.std


class TeacherStacks:
    """Teachers on one device in one stack per architecture and input. ``observe``: see ``NetworkStack.of``."""

    def __init__(self, teachers: Sequence[Teacher], observe: Observation | None = None) -> None:
        self.members = stackable([teacher.network for teacher in teachers])
        self.stacks = [TeacherStack.of([teachers[member] for member in members], observe) for members in self.members]
        self._place = {member: (stack, place) for stack, members in enumerate(self.members) for place, member in enumerate(members)}
        self.most_classes = max(len(teacher.classes) for teacher in teachers)

    def of(self, queried: Sequence[int]) -> list[tuple[TeacherStack, list[int]]]:
        """The stacks of the teachers at these positions, and for each stack the places of its teachers in ``queried``."""
        of_stack: dict[int, list[int]] = {}
        for place, member in enumerate(queried):
            of_stack.setdefault(self._place[member][0], []).append(place)
        chosen = []
        for number, places in of_stack.items():
            stack = self.stacks[number]
            index = torch.tensor([self._place[queried[place]][1] for place in places])
            chosen.append((stack.select(devices.moved(index, stack.mean.device)), places))
        return chosen

    def probabilities(self, images: Tensor, queried: Sequence[int]) -> Tensor:
        """Softmax [B, queried, most classes] of teachers for images in [0, 255], [B, C, H, W] of any size; 0 beyond a teacher's classes."""
        result: list[Tensor] = [images] * len(queried)
        for stack, places in self.of(queried):
            softmax = stack.networks(stack.normalise(images)).softmax(-1)
            for place, of_teacher in zip(places, F.pad(softmax, (0, self.most_classes - softmax.shape[-1])), strict=True):
                result[place] = of_teacher
        return torch.stack(result, 1)
