"""PURER's learnable data set: free images whose episodes become harder as a learner masters them.

Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning", CVPR 2023. What of it applies here is episode
curriculum inversion: the images of a teacher's classes are the parameters of one data set; every step draws an episode from it, moves the
episode's images down the inversion loss, and trains a few-shot learner on the episode; where the learner has not improved for some
steps, one step also moves the images up the learner's own loss. Three things differ. A set belongs to one teacher, and so does its
learner, as every pool is recovered by itself; the paper's learner is the final one, trained over all teachers at once. The learner
classifies by prototypes, the metric-based variant, which learns within hundreds of steps. Inversion calibration following the inner
loop, the paper's other half, acts when a new task is learned and is no part of recovery.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, InversionConfig, LearnableSetInversion
from datafree.errors import UserError
from datafree.inversion.generator import Generator
from datafree.inversion.inner_loop import soft_labels
from datafree.inversion.objective import as_row, image_terms, random_view, weighted
from datafree.inversion.pixel_parameters import CONTRAST, GREY, PixelParameters, coarse_steps, stage_share
from datafree.inversion.recovered import Recovered
from datafree.progress import progress, require_finite
from datafree.zoo.backbones import build, fitted
from datafree.zoo.teachers import Teacher

SCALE = 10.0  # inverse temperature of distances between unit-length features


def recover(
    teacher: Teacher,
    method: LearnableSetInversion,
    shared: InversionConfig,
    *,
    size: int,
    start: Generator | None,
    seed: int,
    checkpoint: Checkpoint,
    auxiliary_teachers: Sequence[Teacher] = (),
) -> Recovered:
    """A pool of ``shared.images_per_class`` images per class, ``size`` pixels square; ``start`` is not used.

    The history tells of every step the terms of the loss, whether it was a ``hard`` one (1) or not (0), and the learner's ``episode_loss``
    and ``episode_accuracy``.

    Raises:
        UserError: an episode needs more images than a class has, or the loss became NaN or infinite.
    """
    per_class, per_episode = shared.images_per_class, method.shot + method.query
    if per_episode > per_class:
        raise UserError(
            f"inversion.images_per_class: got {per_class}; a learnable set with {method.shot} support and {method.query} query images "
            f"per class needs at least {per_episode}; raise it, or lower `shot` or `query` of the method"
        )
    weights = replace(shared.loss, total_variation=method.total_variation, squared_norm=method.squared_norm)
    groups = torch.arange(len(teacher.classes)).tensor_split(math.ceil(len(teacher.classes) / method.classes))
    canvas = PixelParameters(teacher.normalise.mean.device, method.learning_rate, betas=(0.9, 0.999))
    learner = EpisodeLearner(method, size, canvas.device, devices.derive_seed(seed, "learner"))
    first, history = checkpoint.restore(canvas=canvas, learner=learner)
    coarse = coarse_steps(method.coarse, method.steps)
    total = len(groups) * method.steps
    for turn in progress(range(first, total), total - first, f"learnable set of {teacher.name}"):
        part, step = divmod(turn, method.steps)
        rng = devices.generator(seed, "learnable_set", part, step)
        if step == 0:
            canvas.start(len(groups[part]) * per_class, size // 2 if coarse else size, rng)
            learner.forget()
        if step == coarse > 0:
            canvas.enlarge(size)
        chosen, rows = draw_episode(len(groups[part]), method.way, per_class, per_episode, rng)
        labels = groups[part][chosen].repeat_interleave(per_episode).to(canvas.device)
        images = canvas.images(rows.flatten())
        view = random_view(images.shape[-1], shared, rng, auxiliary_teachers)
        terms = image_terms(images, teacher, labels, weights, **view)
        loss = weighted(terms, weights)
        hard = method.adversarial > 0 and step >= method.warm_up * method.steps and learner.waited >= method.patience
        if hard:
            loss = loss - method.adversarial * learner.difficulty(images)
        canvas.step(loss, stage_share(step, coarse, method.steps), view["region"])
        history.append({**as_row(turn + 1, terms), "hard": float(hard), **learner.learn(images, hard)})
        require_finite(f"learnable set of {teacher.name}", **history[-1])
        if step == method.steps - 1:
            canvas.finish(part)
        checkpoint.save(turn + 1, history, canvas=canvas, learner=learner)
    images, labels = torch.cat(canvas.finished), torch.arange(len(teacher.classes)).repeat_interleave(per_class)
    return Recovered(images, labels, soft_labels(teacher, images), history)


def draw_episode(classes: int, way: int, per_class: int, per_episode: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes int64 [at most way] of a set, and rows int64 [way, per_episode] of their images in it; a class's rows are consecutive."""
    chosen = torch.randperm(classes, generator=rng)[:way]
    rows = [torch.randperm(per_class, generator=rng)[:per_episode] + per_class * label for label in chosen.tolist()]
    return chosen, torch.stack(rows)


def episode_loss(features: Tensor, shot: int) -> tuple[Tensor, float]:
    """Loss and accuracy of the queries of one episode by the distance to class means; Snell et al., "Prototypical Networks", 2017.

    ``features`` [way, shot + query, D]; the first ``shot`` of a class are its support.
    """
    unit = F.normalize(features.float(), dim=-1)
    prototypes, queries = unit[:, :shot].mean(1), unit[:, shot:].flatten(0, 1)
    logits = -SCALE * torch.cdist(queries, prototypes).square()
    target = torch.arange(len(features), device=features.device).repeat_interleave(features.shape[1] - shot)
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean().item()


class EpisodeLearner:
    """The few-shot learner whose progress sets the curriculum. Its images are of any size, float in [0, 1], and in order of class."""

    def __init__(self, method: LearnableSetInversion, size: int, device: torch.device, seed: int) -> None:
        self.method = method
        self.size = size
        self.network = build(BackboneConfig("conv4_strided", method.learner_width), 3, size, seed).to(device)
        self.network.train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=method.learner_learning_rate)
        self.forget()

    def forget(self) -> None:
        """A new set begins: how well the learner did on the last one says nothing of this one."""
        self.best = 0.0
        self.waited = 0  # steps without a better accuracy

    def difficulty(self, images: Tensor) -> Tensor:
        """The loss on an episode [way · images per class, 3, S, S], differentiable in the images."""
        return self._loss(images)[0]

    def learn(self, images: Tensor, hard: bool) -> dict[str, float]:
        """One step on an episode; ``episode_loss`` and ``episode_accuracy`` on it before the step. After a hard step the wait is over."""
        loss, accuracy = self._loss(images.detach())
        self.optimiser.zero_grad(set_to_none=True)  # what ``difficulty`` has left
        loss.backward()
        self.optimiser.step()
        self.waited = 0 if hard or accuracy > self.best else self.waited + 1
        self.best = max(self.best, accuracy)
        return {"episode_loss": loss.item(), "episode_accuracy": accuracy}

    def _loss(self, images: Tensor) -> tuple[Tensor, float]:
        features = self.network((fitted(images, (3, self.size, self.size)) - GREY) / CONTRAST)
        return episode_loss(features.unflatten(0, (-1, self.method.shot + self.method.query)), self.method.shot)

    def state_dict(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**state, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.network.load_state_dict(state_dict["network"])
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.best, self.waited = state_dict["best"], state_dict["waited"]
