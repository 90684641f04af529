"""What every arm needs of its teachers: a batch of recovered images, seen anew, with what each teacher says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree.tasks.episodes import random_teachers
from datafree.tasks.pools import Pool
from datafree.zoo.augmentation import random_affine, random_colours
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class TeacherEnsemble:
    """Teachers and their pools, in one order. ``normalise`` is the learner's; a teacher is asked through its own.

    ``odds`` float [teachers] say how often each is asked, relative to the others: 0 for one that is not trusted.
    """

    teachers: Sequence[Teacher]
    pools: Sequence[Pool]
    normalise: Normalise
    device: torch.device
    sampling_weights: Tensor

    def draw_teachers(self, count: int, rng: torch.Generator) -> list[int]:
        """At most ``count`` different teachers, in random order."""
        return random_teachers(self.sampling_weights, count, rng)

    @property
    def class_counts(self) -> list[int]:
        return [len(teacher.classes) for teacher in self.teachers]

    def views(self, images: Tensor, rng: torch.Generator, augment: bool) -> Tensor:
        """uint8 [B, C, H, W] → the learner's normalised input, moved and tinted at random if ``augment``."""
        seen = self.normalise(images.to(self.device))
        return random_colours(random_affine(seen, rng), rng) if augment else seen

    @torch.no_grad()
    def predict(self, views: Tensor, queried: Sequence[int]) -> Tensor:
        """What each asked teacher says of every view [B, C, H, W]: probabilities [B, asked, most classes], 0 for classes it lacks.

        A teacher is asked about images of classes it never learned, too: what it confuses them with is knowledge as well.
        """
        raw = (views * self.normalise.std + self.normalise.mean) * 255
        predictions = torch.zeros(len(views), len(queried), max(self.class_counts), device=views.device)
        for place, index in enumerate(queried):
            one = self.teachers[index]
            predictions[:, place, : len(one.classes)] = one.network(one.normalise(raw)).float().softmax(1)
        return predictions


def mix(views: Tensor, rng: torch.Generator) -> Tensor:
    """Mixup (Zhang et al., ICLR 2018): λ x_i + (1 − λ) x_j with j a random other place and λ uniform in [0, 1] per image.

    No labels are mixed: the teachers are asked about the mixture itself.
    """
    partner = torch.randperm(len(views), generator=rng).to(views.device)
    share = torch.rand(len(views), 1, 1, 1, generator=rng).to(views.device)
    return share * views + (1 - share) * views[partner]
