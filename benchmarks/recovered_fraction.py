"""Recovered fraction: downstream accuracy with recovered images relative to noise (0) and real images (1), at equal training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import DistillationArm, EvaluationConfig, TasksConfig
from datafree.data.images import ImageSet
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.baselines import network_embedding
from datafree.evaluation.few_shot import embed, episode_accuracies, episode_rows
from datafree.evaluation.readouts import FEATURES_ONLY
from datafree.inversion.inner_loop import balanced_labels
from datafree.meta import distillation
from datafree.meta.learner import Learner
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import Pool
from datafree.zoo.backbones import Normalise, build
from datafree.zoo.teachers import Teacher, soft_labels

OCTAVES = (2, 4, 8, 16)  # resolutions in pixels of the noise layers that are summed


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
    """Distil one learner jointly from all pools; {shot: accuracy in [0, 1] of every episode on ``images``} for ``evaluation.shots``.

    ``normalise`` is the learner's; the teachers are on ``device``. ``images`` should be of validation classes, as methods are compared
    on the result.
    """
    shape = pools[0].images.shape[1:]
    backbone = build(arm.backbone, shape[0], shape[1], seed)
    with devices.seeded_initialisation(seed):
        heads = TeacherHeads(backbone.feature_size, [len(teacher.classes) for teacher in teachers])
    learner = Learner(backbone, heads, normalise).to(device)
    sampling_weights = torch.ones(len(teachers), dtype=torch.float64)
    # Joint distillation does not use episodes, but takes them as all meta-training methods do.
    episodes = sample_episodes(pools, sampling_weights.tolist(), TasksConfig(way=2, shot=1, query=1, episodes=1), seed)
    ensemble = TeacherEnsemble(teachers, pools, normalise, device, sampling_weights, devices.together(device))
    distillation.train(learner, ensemble, episodes, arm, seed, Checkpoint(None))
    embedding = network_embedding(backbone, normalise, FEATURES_ONLY, device, mirrored=False)
    features = embed(embedding, images.images, device)["features"]
    counts = {"way": evaluation.way, "query": evaluation.query, "episodes": evaluation.episodes}
    return {
        shot: episode_accuracies(features, episode_rows(images.labels, shot=shot, **counts, seed=seed), shot) for shot in evaluation.shots
    }


def recovered_fraction(noise: float, recovered: float, real: float) -> float:
    """(recovered − noise) / (real − noise) of three accuracies: 0 = no better than noise, 1 = as good as real images.

    Raises:
        ValueError: real images are no better than noise, so the fraction is undefined.
    """
    if real <= noise:
        raise ValueError(f"recovered_fraction: expected real images to be better than noise, got {real} and {noise}")
    return (recovered - noise) / (real - noise)


def noise_pool(teacher: Teacher, per_class: int, size: int, seed: int) -> Pool:
    """Smooth noise with arbitrary balanced labels, ``per_class`` images per class: the reference at 0 of ``recovered_fraction``."""
    count = per_class * len(teacher.classes)
    images = smooth_noise(count, size, devices.generator(seed, "noise", teacher.name))
    return Pool(images, balanced_labels(len(teacher.classes), count), soft_labels(teacher, images), teacher.classes)


def smooth_noise(count: int, size: int, rng: torch.Generator) -> Tensor:
    """Images uint8 [count, 3, size, size]: the sum of normal noise at several resolutions, with mean 1/2 and standard deviation 1/4."""
    layers = [
        F.interpolate(torch.randn(count, 3, octave, octave, generator=rng), size=(size, size), mode="bicubic", align_corners=False)
        for octave in OCTAVES
    ]
    noise = torch.stack(layers).sum(0)
    return (255 * (0.5 + 0.25 * noise / noise.std())).clamp(0, 255).round().to(torch.uint8)


def with_soft_labels(pool: Pool, teacher: Teacher) -> Pool:
    """The pool with the teacher's predictions as soft labels; for real images, the reference at 1 of ``recovered_fraction``."""
    return replace(pool, soft_labels=soft_labels(teacher, pool.images))
