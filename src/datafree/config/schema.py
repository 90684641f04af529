"""The typed schema of ``params.yaml``: types, defaults, and per field a comment with its unit and what a special value means."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Source(Enum):
    """Where the real images come from: evaluation, and teachers that are trained here."""

    glyphs = "glyphs"
    folder = "folder"


class Precision(Enum):
    """``auto`` is bfloat16 where the device computes it natively, otherwise float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class OuterUpdate(Enum):
    """How the meta-generator's shared weights move after the inner steps."""

    reptile = "reptile"
    fomaml = "fomaml"


class Initialisation(Enum):
    """What an inversion method adapts from: the meta-generator (FIVE), or a fresh generator per teacher."""

    meta = "meta"
    random = "random"


@dataclass
class Splits:
    """One integer per split; the splits never share a class."""

    train: int = 0
    validation: int = 0
    test: int = 0


@dataclass
class GlyphsConfig:
    """The embedded data: glyphs of the fonts that ship with matplotlib, split by script."""

    difficulty: float = 0.75  # scales affine, elastic, texture and noise; 0 = clean glyphs, 1 = hard
    classes: Splits = field(default_factory=lambda: Splits(240, 60, 120))  # at most 411 / 128 / 234 exist
    images_per_class: Splits = field(default_factory=lambda: Splits(80, 20, 20))


@dataclass
class DataConfig:
    source: Source = Source.glyphs
    folder: str = ""  # for source=folder: holds train/, validation/, test/, each with one folder of images per class
    image_size: int = 32  # pixels; images are resized to a square
    glyphs: GlyphsConfig = field(default_factory=GlyphsConfig)


@dataclass
class TeacherTrainingConfig:
    """For manifest entries whose source is ``train``."""

    steps: int = 160  # optimiser steps
    batch_size: int = 64
    learning_rate: float = 0.003  # peak of a one-cycle schedule (AdamW)
    held_out: float = 0.2  # share of each class's images kept for the accuracy on the card


@dataclass
class ZooConfig:
    manifest: str = "zoos/glyphs.yaml"  # the teachers: where each comes from, its architecture, classes, normalisation
    limit: int = 0  # use only the first so many teachers of the manifest; 0 = all
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)


@dataclass
class InversionLossConfig:
    """Weights of the terms whose sum a generator minimises."""

    cross_entropy: float = 1.0
    batch_norm: float = 5.0  # distance of batch statistics to the teacher's running statistics, relative
    diversity: float = 5.0  # hinge against images of one class that look alike
    diversity_margin: float = 0.6  # mean absolute pixel distance, in units of the normalised image, below which the hinge acts


@dataclass
class MetaGeneratorConfig:
    """FIVE: one generator whose initialisation adapts to any teacher in a few steps."""

    latent: int = 64  # dimension of the latent vector
    width: int = 32  # channels of the first feature map
    outer_steps: int = 70  # each visits one teacher per `teachers_per_step`
    teachers_per_step: int = 1
    inner_steps: int = 5
    inner_learning_rate: float = 0.01  # Adam
    batch_size: int = 50  # images per inner step
    update: OuterUpdate = OuterUpdate.reptile
    outer_learning_rate: float = 0.65  # Reptile: interpolation, falls linearly to a tenth; FOMAML: Adam's rate


@dataclass
class InversionMethodConfig:
    """One inversion method: an arm of the study."""

    steps: int = 5  # adaptation steps per teacher (k)
    initialisation: Initialisation = Initialisation.meta


@dataclass
class InversionConfig:
    images_per_class: int = 60
    shift: int = 2  # pixels of random translation before the teacher sees an image
    loss: InversionLossConfig = field(default_factory=InversionLossConfig)
    meta_generator: MetaGeneratorConfig = field(default_factory=MetaGeneratorConfig)
    methods: dict[str, InversionMethodConfig] = field(
        default_factory=lambda: {"five": InversionMethodConfig(5), "five_quality": InversionMethodConfig(20)}
    )


@dataclass
class TasksConfig:
    way: int = 5  # classes per training episode
    shot: int = 5  # support images per class
    query: int = 10  # query images per class
    episodes: int = 600  # training episodes per inversion method
    mixed: float = 0.5  # share of episodes whose classes come from several teachers
    check_teachers: bool = True  # drop teachers whose pools show that they are broken, ask doubtful ones less often; false = trust all


# What datafree.zoo.backbones can build, with the usual width of each; `*` stands for a model's name in that library, of its own width.
BACKBONES = {
    "conv4": 32, "conv4_strided": 32, "resnet8": 16, "nasbench201": 16, "resnet10": 64, "resnet12": 64, "resnet18": 64,
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

    name: str = "conv4_strided"  # of BACKBONES; conv4_strided halves the resolution first: about half the cost of conv4
    width: int = 64  # channels of the first stage; of no effect for models of a library
    genotype: str = ""  # nasbench201 only: the cell; `searched` takes the cell that the nas stage found
    cells: int = 1  # nasbench201 only: per stage; with `searched` as in the search


@dataclass
class MetaConfig:
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # every arm runs once per seed
    arms: dict[str, Any] = field(default_factory=lambda: {"bell": {"method": "bell"}, "distillation": {"method": "distillation"}})


@dataclass
class SposConfig:
    """Single-path one-shot search: a supernet trained with uniform paths, then evolution."""

    method: str = "spos"
    inversion: str = "five_quality"  # whose pools
    channels: int = 16  # of the first stage; doubled at each of two reductions
    cells: int = 1  # per stage
    supernet_steps: int = 1000
    batch_size: int = 32
    learning_rate: float = 0.2  # SGD, cosine to 0
    temperature: float = 4.0
    population: int = 16
    generations: int = 4
    parents: int = 6  # best architectures that breed
    mutation: float = 0.2  # probability per edge
    max_macs: int = 15000000  # multiply-adds of the network for one image
    validation: float = 0.1  # share of the pools held out to score candidates
    retrain_steps: int = 400


ALGORITHM_TYPES: dict[str, type] = {"spos": SposConfig}


@dataclass
class NasConfig:
    algorithms: dict[str, Any] = field(default_factory=lambda: {"spos": {"method": "spos"}})


# BatchNorm at test time: running statistics of the training, or those of the episode's own images, queries included (as the papers do).
INFERENCE = ("inductive", "transductive")
# What tells the classes of a new task apart by a network's features.
CLASSIFIERS = ("nearest_centroid", "logistic")


@dataclass
class EvaluationConfig:
    split: str = "test"  # `validation` while choosing settings; `test` once, for the table
    way: int = 5
    shots: list[int] = field(default_factory=lambda: [1, 5])
    query: int = 15  # per class
    episodes: int = 600
    inference: list[str] = field(default_factory=lambda: ["inductive"])  # of INFERENCE; a row for each of them per learner
    classifiers: list[str] = field(default_factory=lambda: ["nearest_centroid"])  # of CLASSIFIERS; a row for each per feature extractor
    oracle_steps: int = 300  # training on the teachers' real classes: the ceiling, and the independent classifier


@dataclass
class TrackingConfig:
    enabled: bool = True
    experiment: str = "datafree"  # name of the MLflow experiment


@dataclass
class Config:
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, or cuda:N
    precision: Precision = Precision.auto  # of convolutions and products; weights and losses are always float32
    data: DataConfig = field(default_factory=DataConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    nas: NasConfig = field(default_factory=NasConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


# Inclusive bounds by dotted key; `*` stands for any one name. None = unbounded.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, 2**31 - 1),
    "data.image_size": (16, 1024),
    "data.glyphs.difficulty": (0, 2),
    "data.glyphs.classes.*": (2, None),
    "data.glyphs.images_per_class.*": (2, None),
    "zoo.limit": (0, None),
    "zoo.training.steps": (1, None),
    "zoo.training.batch_size": (2, None),
    "zoo.training.learning_rate": (1e-8, 10),
    "zoo.training.held_out": (0.01, 0.9),
    "inversion.images_per_class": (2, None),
    "inversion.shift": (0, 16),
    "inversion.loss.*": (0, None),
    "inversion.meta_generator.latent": (1, None),
    "inversion.meta_generator.width": (4, None),
    "inversion.meta_generator.outer_steps": (1, None),
    "inversion.meta_generator.teachers_per_step": (1, None),
    "inversion.meta_generator.inner_steps": (1, None),
    "inversion.meta_generator.inner_learning_rate": (1e-8, 10),
    "inversion.meta_generator.batch_size": (2, None),
    "inversion.meta_generator.outer_learning_rate": (1e-8, 10),
    "inversion.methods.*.steps": (1, None),
    "tasks.way": (2, None),
    "tasks.shot": (1, None),
    "tasks.query": (1, None),
    "tasks.episodes": (1, None),
    "tasks.mixed": (0, 1),
    "meta.seeds.*": (0, 2**31 - 1),
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
    "nas.algorithms.*.channels": (4, None),
    "nas.algorithms.*.cells": (1, None),
    "nas.algorithms.*.supernet_steps": (1, None),
    "nas.algorithms.*.batch_size": (2, None),
    "nas.algorithms.*.learning_rate": (1e-8, 10),
    "nas.algorithms.*.temperature": (0.1, 100),
    "nas.algorithms.*.population": (2, None),
    "nas.algorithms.*.generations": (1, None),
    "nas.algorithms.*.parents": (1, None),
    "nas.algorithms.*.mutation": (0, 1),
    "nas.algorithms.*.max_macs": (1, None),
    "nas.algorithms.*.validation": (0.01, 0.9),
    "nas.algorithms.*.retrain_steps": (1, None),
    "evaluation.way": (2, None),
    "evaluation.shots.*": (1, None),
    "evaluation.query": (1, None),
    "evaluation.episodes": (2, None),
    "evaluation.oracle_steps": (1, None),
}
