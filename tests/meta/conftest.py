"""Fixtures for meta-training: a learner, its teacher ensemble, episodes."""

import functools

import pytest
import torch

from datafree import devices
from datafree.checkpoints import Checkpoint
from datafree.config import BackboneConfig, TasksConfig
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.heads import TeacherHeads
from datafree.meta import ARMS
from datafree.meta.learner import Learner
from datafree.tasks.episodes import sample_episodes
from datafree.zoo.backbones import Normalise, build

TASKS = TasksConfig(way=3, shot=2, query=2, episodes=12, mixed=0.5)


@pytest.fixture(scope="session")
def episodes(pools):
    return sample_episodes(pools, [1.0] * len(pools), TASKS, seed=0)


@pytest.fixture(scope="session")
def fresh_learner():
    return untrained


def untrained(method: str = "bell", one_head: bool = False) -> Learner:
    """An untrained learner for the three teachers of the tests."""
    # Weight fusion needs the teachers' architecture.
    backbone = build(BackboneConfig("conv4" if method == "dro" else "conv4_strided", 8), 3, 32, seed=0)
    with devices.seeded_initialisation(0):
        heads = TeacherHeads(backbone.feature_size, [3, 4, 5], shared=one_head)
    return Learner(backbone, heads, Normalise([0.45] * 3, [0.22] * 3))


class RecordingEnsemble(TeacherEnsemble):
    """Records the images of every call of ``views`` (uint8) and the teachers of every call of ``predict``."""

    @functools.cached_property
    def viewed(self) -> list[torch.Tensor]:
        return []

    @functools.cached_property
    def queries(self) -> list[list[int]]:
        return []

    def views(self, images, rng, augment):
        self.viewed.append(images)
        return super().views(images, rng, augment)

    def predict(self, views, queried):
        self.queries.append(list(queried))
        return super().predict(views, queried)


@pytest.fixture(scope="session")
def ensemble_of(teachers, pools):
    """The teacher ensemble of a learner."""

    def make(learner, kind=TeacherEnsemble):
        return kind(teachers, pools, learner.normalise, torch.device("cpu"), torch.ones(len(teachers)))

    return make


@pytest.fixture
def train_recorded(ensemble_of, episodes):
    """Train an arm and return the ensemble, which recorded how it was used."""

    def run(arm, episodes=episodes):
        learner = untrained(arm.method)
        ensemble = ensemble_of(learner, RecordingEnsemble)
        ARMS[arm.method](learner, ensemble, episodes, arm, 0, Checkpoint(None))
        return ensemble

    return run


@pytest.fixture(scope="session")
def teachers_of(pools):
    """The indices of the teachers from whose pools images uint8 [B, C, H, W] are."""
    owner = {image.numpy().tobytes(): index for index, pool in enumerate(pools) for image in pool.images}
    return lambda images: {owner[image.numpy().tobytes()] for image in images}


@pytest.fixture(scope="session")
def train(ensemble_of, episodes):
    """Train an arm; the learner and the history."""

    def run(arm, seed=0, checkpoint=None):
        learner = untrained(arm.method, getattr(arm, "one_head", False))
        ensemble = ensemble_of(learner)
        history = ARMS[arm.method](learner, ensemble, episodes, arm, seed, checkpoint or Checkpoint(None))
        return learner, history

    return run
