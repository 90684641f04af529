"""Method ``learnable_set``: PURER's learnable data set, pixel parameters whose episodes become harder as a few-shot learner improves.

Hu et al., "Architecture, Dataset and Model-Scale Agnostic Data-free Meta-Learning", CVPR 2023, episode curriculum inversion: the images of
a teacher's classes are the parameters of one data set. Every step samples an episode from it, minimises the inversion loss over the
episode's images, and trains a few-shot learner on the episode. If the learner has not improved for some steps, one step also maximises the
learner's loss over the images.

Three differences from the paper. Every teacher has its own set and learner, as pools are recovered independently; the paper's learner is
the final one, trained over all teachers at once. The learner is a prototypical network (the metric-based variant), which learns within
hundreds of steps. The paper's inversion calibration following the inner loop (ICFIL) acts when a new task is learned, so it is not part
of recovery.
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
from datafree.config import BackboneConfig, LearnableSetInversion, RecoveryConfig
from datafree.episode_loss import EPISODE_SCALE, episode_logits
from datafree.errors import UserError
from datafree.inversion.generator import Generator
from datafree.inversion.objective import as_row, image_terms, random_view, weighted
from datafree.inversion.pixel_parameters import CONTRAST, GREY, PixelParameters, SavedPixels, coarse_steps, stage_share
from datafree.inversion.recovered import Outcomes, Recovered, Recovery, one_by_one
from datafree.inversion.regions import region_mask
from datafree.progress import progress, require_finite
from datafree.zoo.backbones import build, fitted
from datafree.zoo.teachers import soft_labels


def recover(
    recoveries: Sequence[Recovery], method: LearnableSetInversion, shared: RecoveryConfig, *, size: int, start: Generator | None,
    together: bool,
) -> Outcomes:  # fmt: skip
    """``recover_one`` of one teacher after the other; ``start`` is not used."""
    return one_by_one(recoveries, lambda recovery: recover_one(recovery, method, shared, size))


def recover_one(recovery: Recovery, method: LearnableSetInversion, shared: RecoveryConfig, size: int) -> Recovered:
    """A pool of ``shared.images_per_class`` images per class, ``size`` pixels square.

    The history has for every step the terms of the loss, ``hard`` (1 if the step also maximised the learner's loss, else 0), and the
    learner's ``episode_loss`` and ``episode_accuracy``.

    Raises:
        UserError: an episode needs more images than a class has, or the loss became NaN or infinite.
    """
    teacher, seed, checkpoint = recovery.teacher, recovery.seed, recovery.checkpoint
    per_class, per_episode = shared.images_per_class, method.shot + method.query
    if per_episode > per_class:
        raise UserError(
            f"inversion.images_per_class: got {per_class}; a learnable set with {method.shot} support and {method.query} query images "
            f"per class needs at least {per_episode}; raise it, or lower `shot` or `query` of the method"
        )
    weights = replace(shared.loss, total_variation=method.total_variation, squared_norm=method.squared_norm)
    groups = torch.arange(len(teacher.classes)).tensor_split(math.ceil(len(teacher.classes) / method.classes))
    parameters = PixelParameters(teacher.normalise.mean.device, method.learning_rate, betas=(0.9, 0.999))
    learner = EpisodeLearner(method, size, parameters.device, devices.derive_seed(seed, "learner"))
    saved = SavedPixels()
    first, history = checkpoint.restore(parameters=saved, learner=learner)
    coarse = coarse_steps(method.coarse, method.steps)
    total = len(groups) * method.steps
    for iteration in progress(range(first, total), total - first, f"learnable set of {teacher.name}"):
        part, step = divmod(iteration, method.steps)
        rng = devices.generator(seed, "learnable_set", part, step)
        if step == 0:
            parameters.place(torch.randn(len(groups[part]) * per_class, 3, *[size // 2 if coarse else size] * 2, generator=rng))
            learner.reset_progress()
        elif iteration == first:
            parameters.restore([saved.current])
        if step == coarse > 0:
            parameters.enlarge(size)
        chosen, rows = sample_episode(len(groups[part]), method.way, per_class, per_episode, rng)
        labels = groups[part][chosen].repeat_interleave(per_episode).to(parameters.device)
        images = parameters.images(rows.flatten())
        view = random_view(images.shape[-1], shared, rng, recovery.auxiliary_teachers)
        terms = image_terms(images, teacher, labels, weights, **view)
        loss = weighted(terms, weights)
        hard = method.adversarial > 0 and step >= method.warm_up * method.steps and learner.stalled_steps >= method.patience
        if hard:
            loss = loss - method.adversarial * learner.difficulty(images)
        region = view["region"]
        changeable = None if region is None else region_mask(images.shape[2], images.shape[3], region).to(parameters.device) > 0
        parameters.step(loss, stage_share(step, coarse, method.steps), changeable)
        history.append({**as_row(iteration + 1, terms), "hard": float(hard), **learner.learn(images, hard)})
        require_finite(f"learnable set of {teacher.name}", **history[-1])
        if step == method.steps - 1:
            saved.finish(part, parameters.finished())
        saved.current = parameters.state()
        checkpoint.save(iteration + 1, history, parameters=saved, learner=learner)
    images, labels = torch.cat(saved.finished), torch.arange(len(teacher.classes)).repeat_interleave(per_class)
    return Recovered(images, labels, soft_labels(teacher, images), history)


def sample_episode(classes: int, way: int, per_class: int, per_episode: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random classes int64 [W] of a set, W at most ``way``, and distinct rows int64 [W, per_episode] of their images.

    The set has ``per_class`` images of each of ``classes`` classes, sorted by class.
    """
    chosen = torch.randperm(classes, generator=rng)[:way]
    rows = [torch.randperm(per_class, generator=rng)[:per_episode] + per_class * label for label in chosen.tolist()]
    return chosen, torch.stack(rows)


def episode_loss_and_accuracy(features: Tensor, shot: int) -> tuple[Tensor, float]:
    """``episode_loss.episode_loss`` and accuracy of the queries of one episode; ``features`` [way, shot + query, D], support first."""
    logits, target = episode_logits(features[:, :shot].float(), features[:, shot:].float(), EPISODE_SCALE)
    return F.cross_entropy(logits, target), (logits.argmax(1) == target).float().mean().item()


class EpisodeLearner:
    """The few-shot learner whose progress controls the curriculum.

    Episodes are images float [way · (shot + query), 3, S, S] in [0, 1], sorted by class, of any size.
    """

    def __init__(self, method: LearnableSetInversion, size: int, device: torch.device, seed: int) -> None:
        self.method = method
        self.size = size
        self.network = build(BackboneConfig("conv4_strided", method.learner_width), 3, size, seed).to(device)
        self.network.train()
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=method.learner_learning_rate)
        self.reset_progress()

    def reset_progress(self) -> None:
        """Clear the best accuracy, for a new set: accuracies on different sets are not comparable."""
        self.best = 0.0
        self.stalled_steps = 0  # since the last new best accuracy or hard step

    def difficulty(self, images: Tensor) -> Tensor:
        """The loss on an episode, a scalar; differentiable with respect to the images."""
        return self._loss(images)[0]

    def learn(self, images: Tensor, hard: bool) -> dict[str, float]:
        """One optimiser step on an episode; returns ``episode_loss`` and ``episode_accuracy`` before it. A hard step resets the counter."""
        loss, accuracy = self._loss(images.detach())
        self.optimiser.zero_grad(set_to_none=True)  # the gradients of ``difficulty``
        loss.backward()
        self.optimiser.step()
        self.stalled_steps = 0 if hard or accuracy > self.best else self.stalled_steps + 1
        self.best = max(self.best, accuracy)
        return {"episode_loss": loss.item(), "episode_accuracy": accuracy}

    def _loss(self, images: Tensor) -> tuple[Tensor, float]:
        features = self.network((fitted(images, (3, self.size, self.size)) - GREY) / CONTRAST)
        return episode_loss_and_accuracy(features.unflatten(0, (-1, self.method.shot + self.method.query)), self.method.shot)

    def state_dict(self) -> dict[str, Any]:
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        return {**state, "best": self.best, "stalled_steps": self.stalled_steps}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.network.load_state_dict(state_dict["network"])
        self.optimiser.load_state_dict(state_dict["optimiser"])
        self.best, self.stalled_steps = state_dict["best"], state_dict["stalled_steps"]
