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
    """How the meta-generator's shared weights move after the inner steps.

    Towards the adapted weights (Reptile), or along a first-order MAML gradient: of the last inner step, or the mean over all of them.
    """

    reptile = "reptile"
    fomaml = "fomaml"
    fomaml_mean = "fomaml_mean"


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
    folder: str | None = None  # for source=folder: holds train/, validation/, test/, each with one folder of images per class
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
    limit: int | None = None  # use only the first so many teachers of the manifest; null = all
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)


@dataclass
class InversionLossConfig:
    """Weights of the terms whose sum a generator minimises."""

    cross_entropy: float = 1.0
    batch_norm: float = 5.0  # distance of batch statistics to the teacher's running statistics, relative
    diversity: float = 5.0  # hinge against images of one class that look alike
    diversity_margin: float = 0.75  # mean absolute pixel distance, in units of the normalised image, below which the hinge acts
    auxiliary_teachers: float = 10.0  # distance of batch statistics to those of `inversion.auxiliary_teachers` other teachers
    total_variation: float = 0.0  # squared differences of neighbouring pixels of the normalised image
    squared_norm: float = 0.0  # squared pixels of the normalised image


@dataclass
class MetaGeneratorConfig:
    """FIVE: one generator whose initialisation adapts to any teacher in a few steps."""

    latent: int = 64  # dimension of the latent vector
    width: int = 32  # channels of the first feature map
    conditional: bool = True  # the label is an input; without it only optimised latents tell the classes apart
    outer_steps: int = 70  # each visits one teacher per `teachers_per_step`
    teachers_per_step: int = 1
    inner_steps: int = 5
    inner_learning_rate: float = 0.01  # Adam
    latent_learning_rate: float | None = None  # Adam, of one batch of latents optimised with the weights; null = new latents at every step
    batch_size: int = 50  # images per inner step
    update: OuterUpdate = OuterUpdate.reptile
    outer_learning_rate: float = 0.65  # Reptile: interpolation, falls linearly to a tenth; FOMAML: Adam's rate
    fresh_optimiser: bool = False  # FOMAML: a new Adam at every outer step, which then moves every weight by about its rate
    adversarial: float = 0.0  # weight of the boundary term against a student that is taught along


@dataclass
class GeneratorInversion:
    """A label-conditional generator, adapted to each teacher: from FIVE's meta-generator, or from weights of its own."""

    method: str = "generator"
    steps: int = 5  # adaptation steps per teacher (k)
    initialisation: Initialisation = Initialisation.meta
    learning_rate: float = 0.01  # Adam; from the meta-generator best as its `inner_learning_rate`
    batch_size: int = 50  # images per step; from the meta-generator best as its `batch_size`
    latent: int | None = None  # dimension of the latent vector; only with initialisation random, null = as the meta-generator
    width: int | None = None  # channels of the first feature map; only with initialisation random, null = as the meta-generator
    conditional: bool | None = None  # the label is an input; only with initialisation random, null = as the meta-generator
    latent_learning_rate: float | None = None  # Adam; each batch of images gets latents of its own; null = one generator makes all images
    diversity: bool = True  # false: without `inversion.loss.diversity`; the meta-generator was trained with it all the same
    calibration_rounds: int = 1  # recoveries in a row, each aiming at what the teacher said of the last one's images; 1 = labels alone
    adversarial: float = 0.0  # weight of the boundary term against a student that is taught along
    contrastive: float = 0.0  # weight of CMI's contrastive term: every image differs from all others, earlier ones included
    contrastive_temperature: float = 0.2
    contrastive_memory: int = 2048  # earlier images to differ from


@dataclass
class PixelInversion:
    """DeepInversion: every image is a free variable."""

    method: str = "pixels"
    steps: int = 200  # per batch of images; the paper takes 2000
    batch_size: int = 100  # images that are made together, and whose statistics have to match
    learning_rate: float = 0.2  # Adam, falls along a cosine; in units of normalised images
    total_variation: float = 0.02  # in place of `inversion.loss.total_variation`: free pixels need a prior, generators are one
    squared_norm: float = 0.0  # in place of `inversion.loss.squared_norm`
    flip: bool = False  # mirror half of the views; for images whose mirror image is of the same class
    diversity: bool = True  # false: without `inversion.loss.diversity`
    coarse: float = 0.4  # share of the steps at half the resolution
    calibration_rounds: int = 1  # recoveries in a row, each aiming at what the teacher said of the last one's images; 1 = labels alone
    competition: float = 0.0  # weight of Adaptive DeepInversion's term: agreement with a student that is taught along


@dataclass
class LearnableSetInversion:
    """PURER: a data set of free images whose episodes become harder as a learner masters them."""

    method: str = "learnable_set"
    steps: int = 400  # per set of at most `classes` classes, each on one episode
    classes: int = 20  # of one set; a teacher of more has several, one after the other
    way: int = 5  # classes of an episode
    shot: int = 5  # support images per class
    query: int = 5  # query images per class
    learning_rate: float = 0.25  # Adam, of the images; falls along a cosine
    coarse: float = 0.4  # share of the steps at half the resolution
    total_variation: float = 0.02  # in place of `inversion.loss.total_variation`
    squared_norm: float = 0.0  # in place of `inversion.loss.squared_norm`
    learner_width: int = 32  # channels of the learner's first stage
    learner_learning_rate: float = 0.003  # Adam
    adversarial: float = 0.3  # weight with which a hard step raises the learner's loss; 0 = no curriculum
    warm_up: float = 0.3  # share of the steps before the first hard one
    patience: int = 6  # steps without a better accuracy of the learner before a hard one


@dataclass
class BlackBoxInversion:
    """BiDf-MKD: recovery from a teacher's answers alone, by estimated gradients."""

    method: str = "black_box"
    steps: int = 200
    batch_size: int = 50  # images per step
    learning_rate: float = 0.01  # Adam, of the generator
    directions: int = 10  # per image and step: as many more images to ask about; the paper takes 100
    smoothing: float = 2.0  # length of a direction, of all pixels together, in units of images in [0, 1]
    block: int = 4  # pixels of a side of the squares that move together; 1 = every pixel by itself, as in the paper
    latent: int = 64  # dimension of the generator's latent vector
    width: int = 32  # channels of its first feature map


INVERSION_TYPES: dict[str, type] = {
    "generator": GeneratorInversion,
    "pixels": PixelInversion,
    "learnable_set": LearnableSetInversion,
    "black_box": BlackBoxInversion,
}


def starts_from_meta(method: Any) -> bool:
    """Whether an inversion method begins with the meta-generator, which must be trained before."""
    return getattr(method, "initialisation", None) is Initialisation.meta


@dataclass
class InversionConfig:
    images_per_class: int = 30
    shard_size: int = 8  # teachers of one architecture that one process recovers, one after the other; changes no byte of the results
    shift: int = 2  # pixels of random translation before the teacher sees an image
    augmentation: float = (
        1.0  # of each image before the teacher sees it: 1 = up to 15° of rotation, 15 % of size, 10 % of the side; 0 = none
    )
    auxiliary_teachers: int = 1  # other teachers, drawn anew at every step, whose statistics the images must match, too; 0 = none
    region: float = 1.0  # share of each side that a step updates, at a random place; 1 = whole images
    loss: InversionLossConfig = field(default_factory=InversionLossConfig)
    meta_generator: MetaGeneratorConfig = field(default_factory=MetaGeneratorConfig)
    methods: dict[str, Any] = field(
        default_factory=lambda: {"five": {"method": "generator"}, "deep_inversion": {"method": "pixels", "steps": 50}}
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

    name: str = "conv4_strided"  # of BACKBONES or nas.spaces.SPACES; conv4_strided halves the resolution first: half the cost of conv4
    width: int = 64  # channels of the first stage; of no effect for models of a library
    genotype: str | None = None  # search spaces only: the architecture; `searched` = the result of the first search, its space included
    cells: int = 1  # search spaces only: per stage; with `searched` as in the search


@dataclass
class MetaConfig:
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])  # every arm runs once per seed
    arms: dict[str, Any] = field(default_factory=lambda: {"distillation": {"method": "distillation"}, "bell": {"method": "bell"}})


@dataclass
class NasConfig:
    algorithms: dict[str, Any] = field(default_factory=lambda: {"spos": {"method": "spos"}})


# BatchNorm at test time: running statistics of the training, or those of the episode's own images, queries included (as the papers do).
INFERENCE = ("inductive", "transductive")
# What tells the classes of a new task apart by a network's features.
CLASSIFIERS = ("nearest_centroid", "logistic")
# What is trained on real images of the teachers' classes, for the ceiling; `searched` is a classifier of the architecture that the nas
# stage found.
ORACLES = ("classifier", "searched", "protonet", "maml")


@dataclass
class EvaluationConfig:
    split: str = "validation"  # `test` once, for the final table, after all settings are chosen on `validation`
    way: int = 5
    shots: list[int] = field(default_factory=lambda: [1, 5])
    query: int = 15  # per class
    episodes: int = 600
    by_domain: bool = False  # episodes within one domain, which a class's name tells before its first dot; the table is of all domains
    inference: list[str] = field(default_factory=lambda: ["inductive"])  # of INFERENCE; a row for each of them per learner
    classifiers: list[str] = field(default_factory=lambda: ["nearest_centroid"])  # of CLASSIFIERS; a row for each per feature extractor
    oracles: list[str] = field(default_factory=lambda: ["classifier"])  # of ORACLES; may be empty
    oracle_steps: int = 300  # training on the teachers' real classes: the ceiling, and the independent classifier
    oracle_backbone: BackboneConfig = field(default_factory=BackboneConfig)  # of the oracles and of the row `random`


@dataclass
class TrackingConfig:
    enabled: bool = True
    experiment: str = "datafree"  # name of the MLflow experiment


@dataclass
class Config:
    seed: int = 0
    device: str = "auto"  # auto, cpu, cuda, or cuda:N
    precision: Precision = Precision.auto  # of convolutions and products; weights and losses are always float32
    accept_other_hardware: bool = False  # true: results of another device, kind of processor or precision count as current
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # of every arm and oracle that names no other
    data: DataConfig = field(default_factory=DataConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    nas: NasConfig = field(default_factory=NasConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


# Inclusive bounds by dotted key; arms and searches have theirs in datafree.config.arms and .algorithms. `*` stands for any one name.
# None = unbounded.
BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "seed": (0, 2**31 - 1),
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
    "inversion.shard_size": (1, None),
    "inversion.images_per_class": (2, None),
    "inversion.shift": (0, 16),
    "inversion.augmentation": (0, 4),
    "inversion.auxiliary_teachers": (0, None),
    "inversion.region": (0.1, 1),
    "inversion.loss.*": (0, None),
    "inversion.meta_generator.latent": (1, None),
    "inversion.meta_generator.width": (4, None),
    "inversion.meta_generator.outer_steps": (1, None),
    "inversion.meta_generator.teachers_per_step": (1, None),
    "inversion.meta_generator.inner_steps": (1, None),
    "inversion.meta_generator.inner_learning_rate": (1e-8, 10),
    "inversion.meta_generator.batch_size": (2, None),
    "inversion.meta_generator.outer_learning_rate": (1e-8, 10),
    "inversion.meta_generator.latent_learning_rate": (1e-8, 10),
    "inversion.meta_generator.adversarial": (0, None),
    "inversion.methods.*.steps": (1, None),
    "inversion.methods.*.learning_rate": (1e-8, 10),
    "inversion.methods.*.batch_size": (2, None),
    "inversion.methods.*.latent": (1, None),
    "inversion.methods.*.width": (4, None),
    "inversion.methods.*.latent_learning_rate": (1e-8, 10),
    "inversion.methods.*.calibration_rounds": (1, None),
    "inversion.methods.*.adversarial": (0, None),
    "inversion.methods.*.contrastive": (0, None),
    "inversion.methods.*.contrastive_temperature": (0.001, 100),
    "inversion.methods.*.contrastive_memory": (1, None),
    "inversion.methods.*.total_variation": (0, None),
    "inversion.methods.*.squared_norm": (0, None),
    "inversion.methods.*.coarse": (0, 0.95),
    "inversion.methods.*.competition": (0, None),
    "inversion.methods.*.classes": (2, None),
    "inversion.methods.*.way": (2, None),
    "inversion.methods.*.shot": (1, None),
    "inversion.methods.*.query": (1, None),
    "inversion.methods.*.learner_width": (4, 1024),
    "inversion.methods.*.learner_learning_rate": (1e-8, 10),
    "inversion.methods.*.warm_up": (0, 1),
    "inversion.methods.*.patience": (1, None),
    "inversion.methods.*.directions": (1, None),
    "inversion.methods.*.smoothing": (1e-4, 100),
    "inversion.methods.*.block": (1, None),
    "tasks.way": (2, None),
    "tasks.shot": (1, None),
    "tasks.query": (1, None),
    "tasks.episodes": (1, None),
    "tasks.mixed": (0, 1),
    "meta.seeds.*": (0, 2**31 - 1),
    "evaluation.way": (2, None),
    "evaluation.shots.*": (1, None),
    "evaluation.query": (1, None),
    "evaluation.episodes": (2, None),
    "evaluation.oracle_steps": (1, None),
    "evaluation.oracle_backbone.width": (4, 1024),
    "evaluation.oracle_backbone.cells": (1, None),
}
