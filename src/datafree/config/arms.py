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


class Divergence(Enum):
    """How far a student is from a teacher; ``released`` is what the released code of FREE computes, see datafree.distillation.losses."""

    kl = "kl"
    released = "released"


class BellUpdate(Enum):
    """``interpolation`` moves along the displacement. ``adam``, as the released code: 67 times the displacement is the gradient of a
    second Adam, which the replay shares, and the inner Adam starts anew at every outer step."""

    interpolation = "interpolation"
    adam = "adam"


@dataclass
class ReplayConfig:
    """Second-order MAML on episodes of the pools, after every outer step."""

    episodes: int = 0  # per meta-batch; 0 = no replay
    patience: int = 0  # meta-batches without a better accuracy before the next outer step; 0 = one meta-batch
    inner_steps: int = 5
    learning_rate: float = 0.05  # of the inner steps, on the whole network; the outer ones are Adam's


@dataclass
class DistillationArm:
    """Joint distillation: one network, one head per teacher, soft labels, augmentation and mixup."""

    method: str = "distillation"
    inversion: str = "deep_inversion"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 400
    teachers_per_step: int = 8
    images_per_teacher: int = 16
    images_per_class: int | None = None  # of each pool that are used; null = all
    learning_rate: float = 0.004  # peak of a one-cycle schedule (AdamW)
    temperature: float = 4.0
    augment: bool = True
    mixup: bool = True  # on every other step


@dataclass
class BellArm:
    """BELL: sequential steps over several teachers' tasks, outer step along the displacement."""

    method: str = "bell"
    inversion: str = "deep_inversion"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 100  # outer steps
    tasks_per_step: int = 4  # sequential inner steps per outer step, each on another task
    inner_learning_rate: float = 0.002  # Adam, state kept across outer steps
    outer_learning_rate: float = 1.0  # share of the displacement that is kept; falls linearly to a tenth. With `update: adam` its rate
    temperature: float = 4.0  # of no effect with `divergence: released`
    distillation: float = 0.7  # weight of the teacher's soft labels; the rest is the episode's own loss
    augment: bool = True
    update: BellUpdate = BellUpdate.interpolation
    divergence: Divergence = Divergence.kl
    cross_task: bool = True  # every teacher of the step is asked about every task; false: tasks of one teacher, which alone is asked
    one_head: bool = False  # one head for all teachers: their class orders conflict
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass
class ProtoNetArm:
    """Plain episodic training: prototypes of the support, cross-entropy of the queries, Adam on every task."""

    method: str = "protonet"
    inversion: str = "deep_inversion"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 400
    tasks_per_step: int = 1
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    augment: bool = True
    task_mixup: float = 0.0  # share of the tasks that are mixtures of two tasks' features, as in TEAPOT


@dataclass
class MamlArm:
    """MAML: an initialisation from which a few gradient steps solve a task."""

    method: str = "maml"
    inversion: str = "deep_inversion"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 200
    tasks_per_step: int = 2
    inner_steps: int = 3  # on the support of a training task, at the rate of `adaptation`
    second_order: bool = True  # false: the gradient at the adapted weights is taken for that at the initialisation
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    distillation: float = 0.0  # weight of the teacher's soft labels in both loops, in tasks of one teacher; the rest is the labels'
    temperature: float = 4.0  # of no effect without distillation
    augment: bool = True
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.network, 10, 0.05))


@dataclass
class AnilArm(MamlArm):
    """ANIL: as MAML, but only the head adapts."""

    method: str = "anil"
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.head, 10, 0.05))


@dataclass
class IgrArm:
    """Explicit gradient regularisation (TGR): a step on several tasks at once, with a price on the variance of their gradients."""

    method: str = "igr"
    inversion: str = "deep_inversion"  # whose pools
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 100
    tasks_per_step: int = 4
    learning_rate: float = 0.004  # peak of a one-cycle schedule (AdamW)
    regularisation: float = 0.001  # λ; 0 = plain joint training
    groups: int | None = None  # of unlike teachers, as in TGR, which has 5: a step's tasks are of one of them; null = any tasks
    temperature: float = 4.0
    distillation: float = 0.7  # weight of the teachers' soft labels; the rest is the episode's own loss
    augment: bool = True


@dataclass
class DroArm:
    """Fusion of the teachers' weights by a distributionally robust hyper-network; learns from no image."""

    method: str = "dro"
    inversion: str = "deep_inversion"  # whose pools: for BatchNorm statistics and the teachers' reliability
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # must be that of every teacher
    steps: int = 500
    learning_rate: float = 0.003  # Adam
    embedding: int = 50  # dimension of a teacher's embedding
    perturbation: float = 0.1  # length of a step towards the worst embedding
    perturbation_steps: int = 3
    robustness: float = 2.0  # γ, the price of the squared distance to the worst embedding; large = not robust
    held_out: float = 0.2  # share of the teachers that the upper level is measured on
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.network, 10, 0.05))


ARM_TYPES: dict[str, type] = {
    "distillation": DistillationArm,
    "bell": BellArm,
    "protonet": ProtoNetArm,
    "maml": MamlArm,
    "anil": AnilArm,
    "igr": IgrArm,
    "dro": DroArm,
}

# As datafree.config.schema.BOUNDS.
ARM_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "meta.arms.*.steps": (1, None),
    "meta.arms.*.teachers_per_step": (1, None),
    "meta.arms.*.tasks_per_step": (1, None),
    "meta.arms.*.images_per_teacher": (2, None),
    "meta.arms.*.images_per_class": (1, None),
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
    "meta.arms.*.replay.episodes": (0, None),
    "meta.arms.*.replay.patience": (0, None),
    "meta.arms.*.replay.inner_steps": (1, 100),
    "meta.arms.*.replay.learning_rate": (1e-8, 10),
    "meta.arms.*.task_mixup": (0, 1),
    "meta.arms.*.regularisation": (0, 10),
    "meta.arms.*.groups": (1, None),
    "meta.arms.*.embedding": (1, None),
    "meta.arms.*.perturbation": (1e-8, 10),
    "meta.arms.*.perturbation_steps": (0, None),
    "meta.arms.*.robustness": (0, None),
    "meta.arms.*.held_out": (0.01, 0.9),
}
