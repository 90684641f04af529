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
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, InversionConfig, LearnableSetInversion
from datafree.errors import UserError
from datafree.inversion.adaptation import soft_labels
from datafree.inversion.canvas import Canvas
from datafree.inversion.generator import Generator
from datafree.inversion.objective import as_row, image_terms, weighted
from datafree.inversion.recovered import Recovered
from datafree.progress import progress, require_finite
from datafree.zoo.backbones import build
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
    canvas = Canvas(teacher.normalise.mean.device, method.learning_rate, betas=(0.9, 0.999))
    learner = EpisodeLearner(teacher, method, seed)
    first, history = checkpoint.restore(canvas=canvas, learner=learner)
    total = len(groups) * method.steps
    for turn in progress(range(first, total), total - first, f"learnable set of {teacher.name}"):
        part, step = divmod(turn, method.steps)
        draw = devices.generator(seed, "learnable_set", part, step)
        if step == 0:
            canvas.start(len(groups[part]) * per_class, size, draw)
            learner.forget()
        chosen, rows = draw_episode(len(groups[part]), method.way, per_class, per_episode, draw)
        labels = groups[part][chosen].repeat_interleave(per_episode).to(canvas.device)
        down, right = torch.randint(-shared.shift, shared.shift + 1, (2,), generator=draw).tolist()
        learner.hard = method.adversarial > 0 and step >= method.warm_up * method.steps and learner.waited >= method.patience
        terms = image_terms(canvas.images(rows.flatten()), teacher, labels, weights, (down, right), learner.face)
        episode = terms.pop("episode")
        canvas.step(weighted(terms, weights) - method.adversarial * episode, step / method.steps)
        history.append({**as_row(turn + 1, terms), "hard": float(learner.hard), **learner.learn()})
        require_finite(f"learnable set of {teacher.name}", **history[-1])
        if step == method.steps - 1:
            canvas.finish()
        checkpoint.save(turn + 1, history, canvas=canvas, learner=learner)
    images, labels = torch.cat(canvas.finished), torch.arange(len(teacher.classes)).repeat_interleave(per_class)
    return Recovered(images, labels, soft_labels(teacher, images), history)


def draw_episode(classes: int, way: int, per_class: int, per_episode: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Classes int64 [at most way] of a set, and rows int64 [way, per_episode] of their images in it; a class's rows are consecutive."""
    chosen = torch.randperm(classes, generator=draw)[:way]
    rows = [torch.randperm(per_class, generator=draw)[:per_episode] + per_class * label for label in chosen.tolist()]
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
    """The few-shot learner whose progress sets the curriculum."""

    def __init__(self, teacher: Teacher, method: LearnableSetInversion, seed: int) -> None:
        channels, height, _ = teacher.input
        self.method = method
        self.network = build(
            BackboneConfig("conv4_strided", method.learner_width), channels, height, devices.derive_seed(seed, "learner")
        ).to(teacher.normalise.mean.device)
        self.network.train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=method.learner_learning_rate)
        self.forget()

    def forget(self) -> None:
        """A new set begins: how well the learner did on the last one says nothing of this one."""
        self.best = 0.0
        self.waited = 0  # steps without a better accuracy
        self.hard = False

    def face(self, views: Tensor, _: Tensor) -> dict[str, Tensor]:
        """The loss on an episode [way · images, C, H, W], class by class, as ``episode``; zero unless the step is ``hard``."""
        self.seen = views.detach()
        self.network.requires_grad_(False)
        return {"episode": self._loss(views)[0] if self.hard else views.new_zeros(())}

    def learn(self) -> dict[str, float]:
        """One step on the last episode; ``episode_loss`` and ``episode_accuracy`` on it before the step."""
        self.network.requires_grad_(True)
        loss, accuracy = self._loss(self.seen)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        self.waited = 0 if self.hard or accuracy > self.best else self.waited + 1
        self.best = max(self.best, accuracy)
        return {"episode_loss": loss.item(), "episode_accuracy": accuracy}

    def _loss(self, views: Tensor) -> tuple[Tensor, float]:
        per_class = self.method.shot + self.method.query
        return episode_loss(self.network(views).unflatten(0, (-1, per_class)), self.method.shot)

    def state_dict(self) -> dict:
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**state, "best": self.best, "waited": self.waited}

    def load_state_dict(self, state_dict: dict) -> None:
        self.network.load_state_dict(state_dict["network"])
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.best, self.waited = state_dict["best"], state_dict["waited"]
