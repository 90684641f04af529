"""How much of the way from noise to real data recovered images go, when a network learns from each under one recipe and budget."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm, EvaluationConfig, TasksConfig
from datafree.data.images import ImageSet
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.baselines import backbone_features
from datafree.evaluation.few_shot import embed, episode_accuracies, episode_rows
from datafree.inversion.inner_loop import balanced_labels, soft_labels
from datafree.meta import distillation
from datafree.meta.learner import Learner
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Normalise, build
from datafree.zoo.teachers import Teacher

OCTAVES = (2, 4, 8, 16)  # pixels of a side of the noise that is laid over itself


def downstream_accuracies(
    teachers: Sequence[Teacher],
    pools: Sequence[Pool],
    arm: DistillationArm,
    images: ImageSet,
    evaluation: EvaluationConfig,
    *,
    normalise: Normalise,
    seed: int,
    device: torch.device,
) -> dict[int, list[float]]:
    """For each of ``evaluation.shots`` the accuracy in [0, 1] of every episode on ``images``, after joint distillation on the pools.

    ``normalise`` is the learner's; the teachers are on ``device``. Choose ``images`` of validation classes: methods are compared here.
    """
    shape = pools[0].images.shape[1:]
    backbone = build(arm.backbone, shape[0], shape[1], seed)
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, [len(teacher.classes) for teacher in teachers])
    learner = Learner(backbone, heads, normalise).to(device)
    sampling_weights = torch.ones(len(teachers), dtype=torch.float64)
    episodes = sample_episodes(
        pools, sampling_weights.tolist(), TasksConfig(way=2, shot=1, query=1, episodes=1), seed
    )  # joint distillation uses none
    distillation.train(
        learner, TeacherEnsemble(teachers, pools, normalise, device, sampling_weights), episodes, arm, seed, Checkpoint(None)
    )
    features = embed(backbone_features(backbone, normalise, device), images.images, device)
    counts = {"way": evaluation.way, "query": evaluation.query, "episodes": evaluation.episodes}
    return {
        shot: episode_accuracies(features, episode_rows(images.labels, shot=shot, **counts, seed=seed), shot) for shot in evaluation.shots
    }


def recovered_fraction(noise: float, recovered: float, real: float) -> float:
    """(recovered − noise) / (real − noise) of three accuracies: 0 = no better than noise, 1 = as good as real images.

    Raises:
        ValueError: real images are no better than noise, so there is no way to go.
    """
    if real <= noise:
        raise ValueError(f"recovered_fraction: expected real images to be better than noise, got {real} and {noise}")
    return (recovered - noise) / (real - noise)


def noise_pool(teacher: Teacher, per_class: int, size: int, seed: int) -> Pool:
    """Smooth random noise, ``per_class`` images per class of the teacher, with labels at random: the floor of ``recovered_fraction``."""
    count = per_class * len(teacher.classes)
    images = smooth_noise(count, size, devices.generator(seed, "noise", teacher.name))
    return Pool(images, balanced_labels(len(teacher.classes), count), soft_labels(teacher, images), teacher.classes)


def smooth_noise(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Images uint8 [count, 3, size, size]: normal noise of several resolutions laid over itself, around mid-grey with deviation 1/4."""
    layers = [
        F.interpolate(torch.randn(count, 3, octave, octave, generator=rng), size=(size, size), mode="bicubic", align_corners=False)
        for octave in OCTAVES
    ]
    noise = torch.stack(layers).sum(0)
    return (255 * (0.5 + 0.25 * noise / noise.std())).clamp(0, 255).round().to(torch.uint8)


def real_pool(teacher: Teacher, data: ImageSet, per_class: int) -> Pool:
    """The first ``per_class`` real images of each of the teacher's classes: the ceiling of ``recovered_fraction``.

    Raises:
        ValueError: ``data`` lacks a class of the teacher.
    """
    own = data.of_classes([data.classes.index(name) for name in teacher.classes])
    rows = torch.cat([torch.nonzero(own.labels == label).flatten()[:per_class] for label in range(len(own.classes))])
    return Pool(own.images[rows], own.labels[rows], soft_labels(teacher, own.images[rows]), teacher.classes)
