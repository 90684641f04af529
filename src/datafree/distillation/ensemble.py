"""Teacher ensemble: several teachers and their pools, with augmented views, teacher predictions and mixup for a learner."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from datafree import devices
from datafree.distillation.prediction_cache import PredictionCache, digest, teacher_digest
from datafree.distillation.reinforced_pools import ReinforcedPools
from datafree.tasks.episodes import sample_teachers
from datafree.tasks.pools import Pool, PoolImages
from datafree.zoo.augmentation import random_affine, random_colours
from datafree.zoo.backbones import Normalise
from datafree.zoo.logits import at_least_float32
from datafree.zoo.teacher_stacks import TeacherStacks
from datafree.zoo.teachers import Teacher

_PREDICTIONS = PredictionCache()  # of all ensembles of the process


@dataclass(frozen=True)
class TeacherEnsemble:
    """Teachers and their pools, in one order. ``normalise`` is the learner's; each teacher is queried through its own.

    ``sampling_weights`` float [teachers] give how often each teacher is used relative to the others; 0 for one that is dropped.
    ``together``: all teachers of one architecture are queried in one pass (see ``devices.together``). ``reinforced``: stored views of the
    pools with predictions, for ``queried_views``.
    """

    teachers: Sequence[Teacher]
    pools: Sequence[Pool]
    normalise: Normalise
    device: torch.device
    sampling_weights: Tensor
    together: bool = False
    reinforced: ReinforcedPools | None = None

    def sample_teachers(self, count: int, rng: torch.Generator) -> list[int]:
        """The indices of at most ``count`` teachers, without replacement, in random order."""
        return sample_teachers(self.sampling_weights, count, rng)

    @functools.cached_property
    def images(self) -> PoolImages:
        """The images of the pools, on the device if they fit."""
        return PoolImages.placed(self.pools, self.device)

    @functools.cached_property
    def _digests(self) -> list[bytes]:
        return [teacher_digest(teacher) for teacher in self.teachers]

    @property
    def class_counts(self) -> list[int]:
        return [len(teacher.classes) for teacher in self.teachers]

    def views(self, images: Tensor, rng: torch.Generator, augment: bool) -> Tensor:
        """uint8 [B, C, H, W] → the learner's normalised input; augmented views (random affine and colour changes) if ``augment``."""
        normalised = self.normalise(devices.moved(images, self.device))
        return random_colours(random_affine(normalised, rng), rng) if augment else normalised

    @functools.cached_property
    def reliable(self) -> list[int]:
        """The indices of the teachers with a sampling weight above 0."""
        return torch.nonzero(self.sampling_weights > 0).flatten().tolist()

    @property
    def used_classes(self) -> list[int]:
        """The number of classes of each teacher, 0 for one of sampling weight 0."""
        return [count if weight > 0 else 0 for count, weight in zip(self.class_counts, self.sampling_weights.tolist(), strict=True)]

    def queried_views(
        self, pools: Tensor, rows: Tensor, queried: Sequence[int], rng: torch.Generator, *, augment: bool = True, mixed: bool = False
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Views of the images at ``rows`` int64 [G, n] of the ``pools`` int64 [G], and the queried teachers' predictions for them.

        The views [G · n, C, H, W] are the learner's input; for the predictions see ``predict``; the third are the stored ``relations``
        [G · n, F], if there are any. All are stored ones, without a query, if there are reinforced pools; ``augment`` is then that of these
        pools. ``mixed``: each view is a mixture with another (mixup).
        """
        if self.reinforced is not None:
            positions = self.reinforced.positions(pools, rows)
            views, predictions, relations = self.reinforced.batch(positions, queried, rng, self.device, mixed=mixed)
            return self.normalise(views), predictions, relations
        views = self.views(self.images.at(pools, rows), rng, augment)
        views = mixup(views, rng) if mixed else views
        return views, self.predict(views, queried), None

    @torch.no_grad()
    def predict(self, views: Tensor, queried: Sequence[int]) -> Tensor:
        """Predictions of the queried teachers for views [B, C, H, W]: softmax [B, queried, most classes], 0 beyond a teacher's classes.

        Teachers are also queried about images of classes that they were not trained on: the probabilities of their own
        classes for such images are a training signal, too. One by one, predictions for the same views are kept in the process (see
        ``PredictionCache``); the result must not be changed.
        """
        if self.together:  # a hash of the views would wait for a GPU, and take longer than the prediction
            return self._stacks.probabilities(self.as_images(views), queried)
        settings = (self.normalise.mean, self.normalise.std, max(self.class_counts), _precision())
        return _PREDICTIONS.get(digest(views, *settings, *(self._digests[index] for index in queried)), lambda: self._query(views, queried))

    @functools.cached_property
    def _stacks(self) -> TeacherStacks:
        return TeacherStacks(self.teachers)

    def as_images(self, views: Tensor) -> Tensor:
        """The learner's input as images in [0, 255], which are not rounded and may exceed the range."""
        return (views * self.normalise.std + self.normalise.mean) * 255

    def _query(self, views: Tensor, queried: Sequence[int]) -> Tensor:
        images = self.as_images(views)
        predictions = at_least_float32(views).new_zeros(len(views), len(queried), max(self.class_counts))
        for place, index in enumerate(queried):
            teacher = self.teachers[index]
            predictions[:, place, : len(teacher.classes)] = at_least_float32(teacher.network(teacher.normalise(images))).softmax(1)
        return predictions


def _precision() -> str:
    return str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else ""


def mixup(views: Tensor, rng: torch.Generator) -> Tensor:
    """Mixup (Zhang et al., ICLR 2018): λ x_i + (1 − λ) x_j with j from a random permutation and λ uniform in [0, 1] per image.

    Labels are not mixed: the teachers are queried about the mixture.
    """
    partner = devices.moved(torch.randperm(len(views), generator=rng), views.device)
    share = mixup_shares(views, rng)
    return share * views + (1 - share) * views[partner]


def mixup_shares(views: Tensor, rng: torch.Generator) -> Tensor:
    """The share λ of each view [B, C, H, W] in a mixture, uniform in [0, 1]: [B, 1, 1, 1]."""
    return devices.moved(torch.rand(len(views), 1, 1, 1, generator=rng), views.device)
