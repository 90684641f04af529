"""What a meta-learner is trained with: a learner, its classroom, episodes."""

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
    """A learner for the three teachers of the tests."""
    # Weights are fused into a network like the teachers.
    backbone = build(BackboneConfig("conv4" if method == "dro" else "conv4_strided", 8), 3, 32, seed=0)
    with devices.seeded_initialisation(0):
        heads = TeacherHeads(backbone.feature_size, [3, 4, 5], shared=one_head)
    return Learner(backbone, heads, Normalise([0.45] * 3, [0.22] * 3))


@pytest.fixture(scope="session")
def classroom_of(teachers, pools):
    """The classroom of a learner."""
    return lambda learner: TeacherEnsemble(teachers, pools, learner.normalise, torch.device("cpu"), torch.ones(len(teachers)))


@pytest.fixture
def train(classroom_of, episodes):
    def run(arm, seed=0, checkpoint=None):
        learner = untrained(arm.method, getattr(arm, "one_head", False))
        ensemble = classroom_of(learner)
        history = ARMS[arm.method](learner, ensemble, episodes, arm, seed, checkpoint or Checkpoint(None))
        return learner, history

    return run
