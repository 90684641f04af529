"""The settings of every meta-learning arm, one dataclass each, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from datafree.config.schema import BackboneConfig


class AdaptedPart(Enum):
    """What of a learner changes when it meets a new task; with ``nothing`` it is a feature extractor for another classifier."""

    nothing = "nothing"
    head = "head"
    network = "network"


@dataclass
class AdaptationConfig:
    """How a trained learner takes in the support images of a new task: plain gradient steps from a head of zeros."""

    part: AdaptedPart = AdaptedPart.nothing  # `nothing` classifies by the nearest centroid of its features; the other keys are then unused
    steps: int = 10  # at test time
    learning_rate: float = 0.01


@dataclass
class DistillationArm:
    """Joint distillation: one network, one head per teacher, soft labels, augmentation and mixup."""

    method: str = "distillation"
    inversion: str = "five_quality"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 400
    teachers_per_step: int = 8
    images_per_teacher: int = 16
    learning_rate: float = 0.004  # peak of a one-cycle schedule (AdamW)
    temperature: float = 4.0
    augment: bool = True
    mixup: bool = True  # on every other step


@dataclass
class BellArm:
    """BELL: sequential steps over several teachers' tasks, outer step along the displacement."""

    method: str = "bell"
    inversion: str = "five_quality"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 100  # outer steps
    tasks_per_step: int = 4  # sequential inner steps per outer step, each on another task
    inner_learning_rate: float = 0.002  # Adam, state kept across outer steps
    outer_learning_rate: float = 1.0  # share of the displacement that is kept; falls linearly to a tenth
    temperature: float = 4.0
    distillation: float = 0.7  # weight of the teacher's soft labels; the rest is the episode's own loss
    augment: bool = True


@dataclass
class ProtoNetArm:
    """Plain episodic training: prototypes of the support, cross-entropy of the queries, Adam on every task."""

    method: str = "protonet"
    inversion: str = "five_quality"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 400
    tasks_per_step: int = 1
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    augment: bool = True


@dataclass
class MamlArm:
    """MAML: an initialisation from which a few gradient steps solve a task."""

    method: str = "maml"
    inversion: str = "five_quality"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 200
    tasks_per_step: int = 2
    inner_steps: int = 3  # on the support of a training task, at the rate of `adaptation`
    second_order: bool = True  # false: the gradient at the adapted weights is taken for that at the initialisation
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    augment: bool = True
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.network, 10, 0.05))


@dataclass
class AnilArm(MamlArm):
    """ANIL: as MAML, but only the head adapts."""

    method: str = "anil"
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.head, 10, 0.05))


ARM_TYPES: dict[str, type] = {
    "distillation": DistillationArm,
    "bell": BellArm,
    "protonet": ProtoNetArm,
    "maml": MamlArm,
    "anil": AnilArm,
}

# As datafree.config.schema.BOUNDS.
ARM_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "meta.arms.*.steps": (1, None),
    "meta.arms.*.teachers_per_step": (1, None),
    "meta.arms.*.tasks_per_step": (1, None),
    "meta.arms.*.images_per_teacher": (2, None),
    "meta.arms.*.learning_rate": (1e-8, 10),
    "meta.arms.*.inner_learning_rate": (1e-8, 10),
    "meta.arms.*.outer_learning_rate": (1e-8, 1),
    "meta.arms.*.inner_steps": (1, 100),
    "meta.arms.*.adaptation.steps": (1, None),
    "meta.arms.*.adaptation.learning_rate": (1e-8, 10),
    "meta.arms.*.temperature": (0.1, 100),
    "meta.arms.*.distillation": (0, 1),
    "meta.arms.*.backbone.width": (4, 1024),
    "meta.arms.*.backbone.cells": (1, None),
}
