"""Settings of the reference networks, which are trained on real images of the teachers' classes: judge and oracles.

The values that ``params.yaml`` does not have are constants here, so that every job's record can hold them by value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datafree.config.arms import BellArm, DistillationArm, MamlArm, ProtoNetArm
from datafree.config.schema import BackboneConfig, Config, TasksConfig
from datafree.config.validation import as_tree

JUDGE = BackboneConfig("resnet8", 16)  # another architecture than that of any default
BATCH_SIZE = 128  # images per step
LEARNING_RATE = 0.004  # peak of a one-cycle schedule (AdamW)


@dataclass
class ClassifierReference:
    """A classifier of all classes of the teachers."""

    backbone: BackboneConfig | None  # null = the search result `nas.searched`
    steps: int  # optimiser steps
    batch_size: int  # images per step
    learning_rate: float  # peak of a one-cycle schedule (AdamW)
    held_out: float  # share of each class's images that measures the accuracy


@dataclass
class LearnerReference:
    """A meta-learner trained on episodes of real images."""

    arm: dict[str, Any]  # settings of the arm, of ARM_TYPES; its `inversion` is empty, because it uses no pool
    tasks: TasksConfig
    held_out: float  # share of each class's images that is not used


def references(config: Config) -> dict[str, dict[str, Any]]:
    """The complete settings of every reference network by name, as plain trees for job cards.

    ``judge``, ``oracle`` and ``searched`` are trees of ``ClassifierReference``, ``protonet`` and ``maml`` of ``LearnerReference``.
    ``config`` is resolved.
    """
    backbone, steps = config.evaluation.oracle_backbone, config.evaluation.oracle_steps or longest_training(config)
    held_out = config.zoo.training.held_out
    classifiers = {"judge": JUDGE, "oracle": backbone, "searched": None}
    arms = {
        "protonet": ProtoNetArm(inversion="", backbone=backbone, steps=steps),
        "maml": MamlArm(inversion="", backbone=backbone, steps=steps),
    }
    settings = {name: ClassifierReference(network, steps, BATCH_SIZE, LEARNING_RATE, held_out) for name, network in classifiers.items()}
    learners = {name: LearnerReference(as_tree(arm), config.tasks, held_out) for name, arm in arms.items()}
    return {name: as_tree(reference) for name, reference in (settings | learners).items()}


def longest_training(config: Config) -> int:
    """The largest number of optimiser steps of any arm; in a study without arms that of joint distillation with its default settings.

    A network that is trained on real images for fewer steps would not bound what the arms reach.
    """
    steps = [arm.steps * (arm.tasks_per_step if isinstance(arm, BellArm) else 1) for arm in config.meta.arms.values()]
    return max(steps, default=DistillationArm().steps)
