"""Typed schema of ``params.yaml``: the type, default and bounds of every key; a comment gives its meaning, unit and special values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from datafree.config.inversions import InversionConfig


class Source(Enum):
    """Source of the real images, which are used to train teachers, to train the oracles and to evaluate."""

    glyphs = "glyphs"
    folder = "folder"


class Precision(Enum):
    """``auto`` is bfloat16 where the device computes it natively, otherwise float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass
class Splits:
    """One integer per split; no class is in two splits."""

    train: int = 0
    validation: int = 0
    test: int = 0


@dataclass
class GlyphsConfig:
    """The embedded data set: glyphs of the fonts that ship with matplotlib, split by script."""

    difficulty: float = 0.75  # strength of affine and elastic distortion, texture and noise; 0 = clean glyphs, 1 = hard
    classes: Splits = field(default_factory=lambda: Splits(240, 60, 120))  # number of classes; at most 411 / 128 / 234
    images_per_class: Splits = field(default_factory=lambda: Splits(80, 20, 20))


@dataclass
class DataConfig:
    source: Source = Source.glyphs
    folder: str | None = None  # path, required with source: folder; has train/, validation/, test/, each with one folder per class
    image_size: int = 32  # pixels per side; all images are resized to squares; a multiple of 8
    glyphs: GlyphsConfig = field(default_factory=GlyphsConfig)


@dataclass
class TeacherTrainingConfig:
    """Training of the teachers whose manifest entry has the key ``train``."""

    steps: int = 160  # optimiser steps
    batch_size: int = 64  # images per step
    learning_rate: float = 0.003  # peak of a one-cycle schedule (AdamW)
    held_out: float = 0.2  # share of each class's images that no network is trained on; measures the accuracy on the card


@dataclass
class ZooConfig:
    manifest: str = "zoos/glyphs.yaml"  # path, relative to the Snakefile; source, architecture, classes and normalisation of every teacher
    limit: int | None = None  # number of teachers, from the start of the manifest; null = all
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)


@dataclass
class TasksConfig:
    way: int = 5  # classes per training episode
    shot: int = 5  # support images per class
    query: int = 10  # query images per class
    episodes: int = 600  # training episodes per inversion method
    mixed: float = 0.5  # share of episodes whose classes come from several teachers
    check_teachers: bool = True  # sampling weights by teacher reliability: broken teachers 0, unreliable ones low; false = all equal


@dataclass
class ReinforcementConfig:
    """Reinforced pools: stored views of the recovered images with the predictions of all reliable teachers."""

    views: int = 2  # augmented views of each image
    mixed_views: int = 2  # views of each image that mix it with another one (mixup)
    augment: bool = True  # false = the views are the images themselves, or mixtures of them
    megabytes: int = 1024  # largest size of the stored views and predictions of one inversion method


# With fewer classes of all teachers together, whose predictions then say little about other classes, the views have the teachers' features
# too: at most so many numbers per view, of more a random projection, which keeps cosines to about 1 / √512.
FEW_CLASSES, MOST_FEATURES = 100, 512


# Architectures of datafree.zoo.backbones and their usual widths. `*` stands for a model of that library, which has its own width.
BACKBONES = {
    "conv4": 32, "conv4_strided": 32, "resnet8": 16, "resnet10": 64, "resnet12": 64, "resnet18": 64,
    "resnet20": 16, "resnet32": 16, "resnet44": 16, "resnet56": 16, "resnet110": 16, "wrn16": 32, "wrn40": 32,
    "vgg11": 64, "vgg13": 64, "vgg16": 64, "vgg19": 64, "mobilenetv2": 32, "torchvision/*": 0, "timm/*": 0,
}  # fmt: skip


def backbone_family(name: str) -> str:
    """The key of ``BACKBONES`` for an architecture: ``torchvision/resnet18`` belongs to ``torchvision/*``."""
    library, slash, _ = name.partition("/")
    return f"{library}/*" if slash else name


@dataclass
class BackboneConfig:
    """A feature extractor by name; see datafree.zoo.backbones."""

    name: str = "conv4_strided"  # of BACKBONES or nas.spaces.SPACES; conv4_strided starts with stride 2 and has half the cost of conv4
    width: int = 64  # channels of the first stage; without effect for models of torchvision and timm
    genotype: str | None = None  # search spaces only: an architecture; `searched` = the result of `nas.searched`, with its space
    cells: int = 1  # search spaces only: cells per stage; with `searched` that of the search


@dataclass
class MetaConfig:
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # every arm runs once per seed
    arms: dict[str, Any] = field(default_factory=lambda: {"distillation": {"method": "distillation"}, "bell": {"method": "bell"}})


@dataclass
class NasConfig:
    searched: str | None = None  # algorithm whose result `genotype: searched` stands for; null = the first by name
    algorithms: dict[str, Any] = field(default_factory=lambda: {"spos": {"method": "spos"}})


def searched_algorithm(nas: NasConfig) -> str:
    """The name of the algorithm whose result `genotype: searched` and the oracle `searched` stand for; there is at least one."""
    return nas.searched or min(nas.algorithms)


# BatchNorm at test time: running statistics, or the batch statistics of the episode's support and query images (as in the papers).
INFERENCE = ("inductive", "transductive")
# Classifiers of a new task's representations, for networks that are used as feature extractors.
CLASSIFIERS = ("nearest_centroid", "logistic")
# Read-outs: what of a network's features and heads represents an image.
READOUTS = ("joined", "features", "root_features", "probabilities")
# Oracles: networks trained on real images of the teachers' classes, as an upper bound. `searched` is a classifier with the architecture of
# the search `nas.searched`.
ORACLES = ("classifier", "searched", "protonet", "maml")
# Keys of `evaluation` that are sets, and their members in the order in which a resolved configuration has them.
SETS = {"inference": INFERENCE, "classifiers": CLASSIFIERS, "readouts": READOUTS, "oracles": ORACLES}


@dataclass
class EvaluationConfig:
    split: str = "validation"  # class split of the episodes; `test` only for the final table, after all settings are chosen on `validation`
    way: int = 5  # classes per episode
    shots: list[int] = field(default_factory=lambda: [1, 5])  # support images per class; a column for each
    query: int = 15  # query images per class
    episodes: int = 600  # test episodes per number of shots
    by_domain: bool = False  # as many episodes within each domain (class name before the first dot); the table is of all domains
    inference: list[str] = field(default_factory=lambda: ["inductive"])  # of INFERENCE; a row for each per learner
    classifiers: list[str] = field(default_factory=lambda: ["nearest_centroid"])  # of CLASSIFIERS; a row for each per feature extractor
    readouts: list[str] = field(default_factory=lambda: ["joined"])  # of READOUTS; a row for each per feature extractor
    mirrored: bool = False  # true = mean representation of image and mirror image; for classes that do not change when mirrored
    oracles: list[str] = field(default_factory=lambda: ["classifier"])  # of ORACLES; may be empty
    oracle_steps: int | None = None  # training steps of the oracles and the independent classifier; null = as many images as an arm
    oracle_backbone: BackboneConfig = field(default_factory=BackboneConfig)  # backbone of the oracles and of the row `random`


@dataclass
class TrackingConfig:
    enabled: bool = True  # log every job to MLflow
    experiment: str = "datafree"  # name of the MLflow experiment


@dataclass
class Config:
    seed: int = 0  # of all random numbers; meta-training has its own seeds in addition
    device: str = "auto"  # cpu, cuda or cuda:N; auto = a GPU if PyTorch can use one, otherwise the CPU
    jobs_per_gpu: int = 1  # jobs that may share a GPU at the same time, if its memory suffices; changes no result
    precision: Precision = Precision.auto  # of convolutions and matrix products; weights and losses are always float32
    accept_other_hardware: bool = False  # true = results of another device, processor kind or precision count as up to date
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # default of every arm and oracle
    data: DataConfig = field(default_factory=DataConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    reinforcement: ReinforcementConfig = field(default_factory=ReinforcementConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    nas: NasConfig = field(default_factory=NasConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


# Inclusive bounds (lowest, highest) by dotted key; None = unbounded. `*` stands for any one name. Those of inversion methods, arms and
# searches are in datafree.config.inversions, .arms and .algorithms.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, 2**31 - 1),
    "jobs_per_gpu": (1, 16),
    "backbone.width": (4, 1024),
    "backbone.cells": (1, None),
    "data.image_size": (16, 1024),
    "data.glyphs.difficulty": (0, 2),
    "data.glyphs.classes.*": (2, None),
    "data.glyphs.images_per_class.*": (2, None),
    "zoo.limit": (1, None),
    "zoo.training.steps": (1, None),
    "zoo.training.batch_size": (2, None),
    "zoo.training.learning_rate": (1e-8, 10),
    "zoo.training.held_out": (0.01, 0.9),
    "tasks.way": (2, None),
    "tasks.shot": (1, None),
    "tasks.query": (1, None),
    "tasks.episodes": (1, None),
    "tasks.mixed": (0, 1),
    "reinforcement.views": (1, None),
    "reinforcement.mixed_views": (0, None),
    "reinforcement.megabytes": (1, 2**12),
    "meta.seeds.*": (0, 2**31 - 1),
    "evaluation.way": (2, None),
    "evaluation.shots.*": (1, None),
    "evaluation.query": (1, None),
    "evaluation.episodes": (2, None),
    "evaluation.oracle_steps": (1, None),
    "evaluation.oracle_backbone.width": (4, 1024),
    "evaluation.oracle_backbone.cells": (1, None),
}
