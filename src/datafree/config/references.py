"""Settings of the reference networks, which are trained on real images of the teachers' classes: judge and oracles.

The values that ``params.yaml`` does not have are constants here, so that every job's record can hold them by value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datafree.config.arms import DistillationArm, DroArm, MamlArm, ProtoNetArm
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
    backbone, tasks, fixed = config.evaluation.oracle_backbone, config.tasks, config.evaluation.oracle_steps
    images, held_out = most_training_images(config), config.zoo.training.held_out
    classifiers = {"judge": JUDGE, "oracle": backbone, "searched": None}
    arms = {"protonet": ProtoNetArm(inversion="", backbone=backbone), "maml": MamlArm(inversion="", backbone=backbone)}
    for arm in arms.values():
        arm.steps = fixed or -(-images // images_of_step(arm, tasks))
    steps = fixed or -(-images // BATCH_SIZE)
    settings = {name: ClassifierReference(network, steps, BATCH_SIZE, LEARNING_RATE, held_out) for name, network in classifiers.items()}
    learners = {name: LearnerReference(as_tree(arm), tasks, held_out) for name, arm in arms.items()}
    return {name: as_tree(reference) for name, reference in (settings | learners).items()}


def most_training_images(config: Config) -> int:
    """The largest number of images, repetitions counted, on which an arm is trained; without arms that of joint distillation by default.

    A network that is trained on fewer real images would not bound what the arms reach.
    """
    arms = [arm for arm in config.meta.arms.values() if not isinstance(arm, DroArm)] or [DistillationArm()]  # DRO is trained on no images
    return max(arm.steps * images_of_step(arm, config.tasks) for arm in arms)


def images_of_step(arm: Any, tasks: TasksConfig) -> int:
    """The number of images of a training step of an arm: of its batch, or of its tasks."""
    return arm.batch_size if isinstance(arm, DistillationArm) else arm.tasks_per_step * tasks.way * (tasks.shot + tasks.query)
