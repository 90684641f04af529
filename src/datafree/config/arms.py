"""Settings of the meta-learning arms, one dataclass per method, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from datafree.config.schema import BackboneConfig


class AdaptedPart(Enum):
    """Part of a learner that adapts to a new task; with ``nothing`` the learner is a feature extractor for a separate classifier."""

    nothing = "nothing"
    head = "head"
    network = "network"


@dataclass
class AdaptationConfig:
    """Adaptation of a trained learner to the support images of a new task: plain gradient steps from a head of zeros."""

    part: AdaptedPart = AdaptedPart.nothing  # nothing = nearest centroid of the features, the other keys have no effect; head; network
    steps: int = 10  # gradient steps at test time
    learning_rate: float = 0.01  # of these steps


class Divergence(Enum):
    """Distillation loss: Kullback-Leibler, or with ``released`` that of FREE's released code; see datafree.distillation.losses."""

    kl = "kl"
    released = "released"


class BellUpdate(Enum):
    """Outer update of BELL. ``interpolation`` moves the weights along the displacement of the inner loop. ``adam``, as in FREE's released
    code: 67 times the displacement is the gradient of a second Adam, which the replay shares; the inner Adam is new at every outer step."""

    interpolation = "interpolation"
    adam = "adam"


class Views(Enum):
    """Views that an arm or a search learns from: stored ones of the reinforced pools, or fresh ones, about which teachers are queried in
    every step."""

    reinforced = "reinforced"
    fresh = "fresh"


class Queried(Enum):
    """Teachers whose predictions a step uses for each of its images: all, those of the step's images, or the one of a task's images."""

    all = "all"
    step = "step"
    own = "own"


@dataclass
class ReplayConfig:
    """Replay: second-order MAML on training episodes after every outer step."""

    episodes: int = 0  # episodes per meta-batch; 0 = no replay
    patience: int = 0  # meta-batches without a better accuracy before the replay ends; 0 = one meta-batch
    inner_steps: int = 5  # gradient steps on the support of an episode
    learning_rate: float = 0.05  # of the inner steps, on the whole network; the outer steps use Adam


@dataclass
class DistillationArm:
    """Joint distillation: one network with one head per teacher, trained on soft labels with augmentation and mixup."""

    method: str = "distillation"
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    start: str | None = None  # teacher of which the learner starts as a copy, with its architecture, or auto (one of them); null = random
    views: Views = Views.reinforced  # reinforced = stored views with the predictions of all teachers; fresh = new views in every step
    steps: int = 400
    batch_size: int = 128  # images per step
    teachers_per_step: int | None = None  # teachers whose images a step uses, as many of each; null = images of any teachers
    images_per_class: int | None = None  # images of each pool that are used; null = all
    queried: Queried = Queried.all  # teachers whose predictions are learned from every image: all, or step = those of the step's images
    learning_rate: float = 0.004  # peak of a one-cycle schedule (AdamW)
    temperature: float = 4.0  # of the distillation loss
    relational: float = 5.0  # weight of the relational loss: pairwise cosines of features as those of the teachers' predictions
    augment: bool = True  # augmented views of the images; with views: reinforced see `reinforcement.augment`
    mixup: bool = True  # mixup on every other step
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass
class BellArm:
    """BELL: sequential inner steps on tasks of several teachers, then an outer step along their displacement."""

    method: str = "bell"
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    start: str | None = None  # teacher of which the learner starts as a copy, with its architecture, or auto (one of them); null = random
    views: Views = Views.reinforced  # reinforced = stored views with the predictions of all teachers; fresh = new views in every step
    steps: int = 150  # outer steps
    tasks_per_step: int = 4  # inner steps per outer step, each on another task
    inner_learning_rate: float = 0.002  # Adam, whose state is kept across outer steps
    outer_learning_rate: float = 1.0  # share of the displacement, falls linearly to a tenth; with update: adam the rate of Adam
    temperature: float = 4.0  # of the distillation loss; without effect with divergence: released
    distillation: float = 0.7  # weight of the distillation loss, 0 to 1; the rest is the cross-entropy of the episode
    relational: float = 5.0  # weight of the relational loss, within the share of distillation
    augment: bool = True  # augmented views of the images; with views: reinforced see `reinforcement.augment`
    update: BellUpdate = BellUpdate.interpolation  # interpolation or adam
    divergence: Divergence = Divergence.kl  # kl or released
    queried: Queried = Queried.all  # all; step = every teacher of the step predicts every task; own = only tasks of one teacher, by it
    one_head: bool = False  # true = one head for all teachers, although their class orders conflict
    replay: ReplayConfig = field(default_factory=ReplayConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass
class ProtoNetArm:
    """ProtoNet: episodic training with class prototypes of the support and cross-entropy of the queries."""

    method: str = "protonet"
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 400
    tasks_per_step: int = 1
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    augment: bool = True  # augmented views of the images
    task_mixup: float = 0.0  # share of the tasks that mix the features of two tasks, as in TEAPOT
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass
class MamlArm:
    """MAML: an initialisation that adapts to a task in a few gradient steps."""

    method: str = "maml"
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    steps: int = 200
    tasks_per_step: int = 2
    inner_steps: int = 3  # gradient steps on the support of a training task, with the learning rate of `adaptation`
    second_order: bool = True  # false = first-order MAML: the gradient at the adapted weights
    learning_rate: float = 0.002  # peak of a one-cycle schedule (AdamW)
    distillation: float = 0.0  # weight of the distillation loss in both loops, 0 to 1, for tasks of one teacher; the rest is cross-entropy
    temperature: float = 4.0  # of the distillation loss; without effect with distillation: 0
    augment: bool = True  # augmented views of the images
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.network, 10, 0.05))


@dataclass
class AnilArm(MamlArm):
    """ANIL: MAML in which only the head adapts."""

    method: str = "anil"
    adaptation: AdaptationConfig = field(default_factory=lambda: AdaptationConfig(AdaptedPart.head, 10, 0.05))


@dataclass
class IgrArm:
    """IGR and TGR: joint steps on several tasks, with a penalty on the variance of their gradients."""

    method: str = "igr"
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    start: str | None = None  # teacher of which the learner starts as a copy, with its architecture, or auto (one of them); null = random
    views: Views = Views.reinforced  # reinforced = stored views with the predictions of all teachers; fresh = new views in every step
    steps: int = 100
    tasks_per_step: int = 4
    learning_rate: float = 0.004  # peak of a one-cycle schedule (AdamW)
    regularisation: float = 0.001  # weight λ of the penalty; 0 = joint training without it
    groups: int | None = None  # groups of dissimilar teachers (TGR: 5); the tasks of a step are of one group; null = any tasks
    temperature: float = 4.0  # of the distillation loss
    distillation: float = 0.7  # weight of the distillation loss, 0 to 1; the rest is the cross-entropy of the episode
    relational: float = 5.0  # weight of the relational loss, within the share of distillation
    queried: Queried = Queried.all  # all, or step = every teacher of the step predicts every task
    augment: bool = True  # augmented views of the images; with views: reinforced see `reinforcement.augment`
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)


@dataclass
class DroArm:
    """DRO: fusion of the teachers' weights by a distributionally robust hyper-network, without images."""

    method: str = "dro"
    inversion: str = "deep_inversion"  # inversion method whose pools give BatchNorm statistics and teacher reliability
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # must be the architecture of every teacher
    steps: int = 500
    learning_rate: float = 0.003  # Adam
    embedding: int = 50  # dimension of a teacher's embedding
    perturbation: float = 0.1  # length of a step towards the worst-case embedding
    perturbation_steps: int = 3  # such steps; 0 = not robust
    robustness: float = 2.0  # weight γ of the squared distance to the worst-case embedding; large values = not robust
    held_out: float = 0.2  # share of the teachers that are held out for the outer step
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

# Inclusive bounds, as datafree.config.schema.BOUNDS.
ARM_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "meta.arms.*.steps": (1, None),
    "meta.arms.*.teachers_per_step": (1, None),
    "meta.arms.*.tasks_per_step": (1, None),
    "meta.arms.*.batch_size": (2, None),
    "meta.arms.*.images_per_class": (1, None),
    "meta.arms.*.learning_rate": (1e-8, 10),
    "meta.arms.*.inner_learning_rate": (1e-8, 10),
    "meta.arms.*.outer_learning_rate": (1e-8, 1),
    "meta.arms.*.inner_steps": (1, 100),
    "meta.arms.*.adaptation.steps": (1, None),
    "meta.arms.*.adaptation.learning_rate": (1e-8, 10),
    "meta.arms.*.temperature": (0.1, 100),
    "meta.arms.*.relational": (0, 1000),
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
