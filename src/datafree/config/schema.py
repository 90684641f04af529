"""Typed schema of ``params.yaml``: the type, default and bounds of every key; a comment gives its meaning, unit and special values."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Source(Enum):
    """Source of the real images, which are used to train teachers, to train the oracles and to evaluate."""

    glyphs = "glyphs"
    folder = "folder"


class Precision(Enum):
    """``auto`` is bfloat16 where the device computes it natively, otherwise float32."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"


class OuterUpdate(Enum):
    """Outer update of the meta-generator's shared weights.

    ``reptile``: interpolation towards the weights after the inner loop. ``fomaml``, ``fomaml_mean``: an Adam step along the first-order
    MAML gradient, which is that of the last inner step, or the mean over all inner steps.
    """

    reptile = "reptile"
    fomaml = "fomaml"
    fomaml_mean = "fomaml_mean"


class Initialisation(Enum):
    """Initial weights of the generator: the meta-generator's (FIVE), or random ones for each teacher."""

    meta = "meta"
    random = "random"


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
    shard_size: int | None = None  # teachers of one architecture per process; null = twice the root of their number; changes no result
    training: TeacherTrainingConfig = field(default_factory=TeacherTrainingConfig)


@dataclass
class InversionLossConfig:
    """Weights of the terms of the inversion loss; 0 = the term is left out. ``diversity_margin`` is no weight."""

    cross_entropy: float = 1.0
    batch_norm: float = 5.0  # relative distance of the batch statistics to the teacher's BatchNorm running statistics
    diversity: float = 5.0  # hinge loss against similar images of one class
    diversity_margin: float = 0.75  # mean absolute pixel distance of two normalised images below which the hinge loss is positive
    auxiliary_teachers: float = 10.0  # as `batch_norm`, for the auxiliary teachers
    total_variation: float = 0.0  # squared differences of neighbouring pixels of the normalised image
    squared_norm: float = 0.0  # squared pixels of the normalised image


@dataclass
class MetaGeneratorConfig:
    """FIVE: the meta-generator, a generator initialisation that adapts to any teacher in a few gradient steps."""

    latent: int = 64  # dimension of the latent vector
    width: int = 32  # channels of the first feature map
    conditional: bool = True  # true = the label is an input of the generator; false = only optimised latents separate the classes
    outer_steps: int = 70  # outer steps, each on `teachers_per_step` teachers
    teachers_per_step: int = 1  # teachers per outer step
    inner_steps: int = 5  # gradient steps per teacher
    inner_learning_rate: float = 0.01  # Adam
    latent_learning_rate: float | None = None  # Adam, of one batch of latents; null = new random latents at every step
    batch_size: int = 50  # images per inner step
    update: OuterUpdate = OuterUpdate.reptile  # reptile, fomaml or fomaml_mean
    outer_learning_rate: float = 0.65  # reptile: share of the way to the adapted weights, falls linearly to a tenth; fomaml: Adam
    fresh_optimiser: bool = False  # fomaml: a new Adam at every outer step, which then moves every weight by about the learning rate
    adversarial: float = 0.0  # weight of the boundary term against a student that is trained alongside; 0 = no student


@dataclass
class GeneratorInversion:
    """Generator inversion: a generator trained against each teacher, from FIVE's meta-generator or from random weights."""

    method: str = "generator"
    steps: int = 5  # gradient steps per teacher
    initialisation: Initialisation = Initialisation.meta  # meta = the meta-generator (FIVE), random = a new generator per teacher
    learning_rate: float = 0.01  # Adam; with initialisation: meta, best equal to `inner_learning_rate` of the meta-generator
    batch_size: int = 50  # images per step; with initialisation: meta, best equal to `batch_size` of the meta-generator
    latent: int | None = None  # dimension of the latent vector; only with initialisation: random; null = as the meta-generator
    width: int | None = None  # channels of the first feature map; only with initialisation: random; null = as the meta-generator
    conditional: bool | None = None  # the label is an input; only with initialisation: random; null = as the meta-generator
    latent_learning_rate: float | None = None  # Adam; each batch of images has its own latents; null = one generator makes all images
    diversity: bool = True  # false = without the term `inversion.loss.diversity`; the meta-generator is still trained with it
    calibration_rounds: int = 1  # recoveries in sequence; later ones use predictions for the previous images as targets; 1 = labels only
    adversarial: float = 0.0  # weight of the boundary term against a student that is trained alongside; 0 = no student
    contrastive: float = 0.0  # weight of CMI's contrastive term between all images, earlier ones included; 0 = none
    contrastive_temperature: float = 0.2
    contrastive_memory: int = 2048  # earlier images kept as negatives


GENERATOR_SHAPE = ("latent", "width", "conditional")  # keys that a randomly initialised generator takes from the meta-generator if null


@dataclass
class PixelInversion:
    """DeepInversion: the pixels of every image are optimised directly."""

    method: str = "pixels"
    steps: int = 200  # per batch of images; the paper uses 2000
    batch_size: int = 100  # images optimised together; the BatchNorm statistics are those of the batch
    learning_rate: float = 0.2  # Adam, cosine schedule; in units of the normalised image
    total_variation: float = 0.02  # replaces `inversion.loss.total_variation`: pixels need a smoothness prior, generators do not
    squared_norm: float = 0.0  # replaces `inversion.loss.squared_norm`
    flip: bool = False  # mirror half of the augmented views; for classes that do not change when mirrored
    diversity: bool = True  # false = without the term `inversion.loss.diversity`
    coarse: float = 0.4  # share of the steps at half the resolution
    calibration_rounds: int = 1  # recoveries in sequence; later ones use predictions for the previous images as targets; 1 = labels only
    competition: float = 0.0  # weight of Adaptive DeepInversion's term against a student that is trained alongside; 0 = no student


@dataclass
class LearnableSetInversion:
    """PURER: a set of pixel parameters whose episodes become harder as a learner improves."""

    method: str = "learnable_set"
    steps: int = 400  # per set of at most `classes` classes; one episode per step
    classes: int = 20  # classes per set; a teacher with more classes gets several sets, one after the other
    way: int = 5  # classes of an episode
    shot: int = 5  # support images per class
    query: int = 5  # query images per class
    learning_rate: float = 0.25  # Adam, of the pixels; cosine schedule
    coarse: float = 0.4  # share of the steps at half the resolution
    total_variation: float = 0.02  # replaces `inversion.loss.total_variation`
    squared_norm: float = 0.0  # replaces `inversion.loss.squared_norm`
    learner_width: int = 32  # channels of the learner's first stage
    learner_learning_rate: float = 0.003  # Adam
    adversarial: float = 0.3  # weight of the learner's loss, which an adversarial step maximises; 0 = no curriculum
    warm_up: float = 0.3  # share of the steps before the first adversarial step
    patience: int = 6  # steps without a better accuracy of the learner before an adversarial step


@dataclass
class BlackBoxInversion:
    """BiDf-MKD: recovery from a black-box teacher's predictions, by zeroth-order gradient estimates."""

    method: str = "black_box"
    steps: int = 200  # per teacher
    batch_size: int = 50  # images per step
    learning_rate: float = 0.01  # Adam, of the generator
    directions: int = 10  # random directions per image and step, each of which costs one query; the paper uses 100
    smoothing: float = 2.0  # L2 norm of the finite difference over all pixels, for images in [0, 1]
    block: int = 4  # side in pixels of the squares that share one component of a direction; 1 = every pixel has its own, as in the paper
    latent: int = 64  # dimension of the generator's latent vector
    width: int = 32  # channels of the generator's first feature map


INVERSION_TYPES: dict[str, type] = {
    "generator": GeneratorInversion,
    "pixels": PixelInversion,
    "learnable_set": LearnableSetInversion,
    "black_box": BlackBoxInversion,
}


def starts_from_meta(method: Any) -> bool:
    """Whether an inversion method starts from the meta-generator, which must be trained first."""
    return getattr(method, "initialisation", None) is Initialisation.meta


@dataclass
class InversionStepConfig:
    """Settings of a step of every inversion method, and of the meta-generator's inner loop."""

    shift: int = 2  # largest random translation of the images at every step, in pixels
    augmentation: float = 1.0  # strength of the augmented views: 1 = up to 15° rotation, 15 % scale, 10 % shift of the side; 0 = none
    auxiliary_teachers: int = 1  # auxiliary teachers per step, sampled at random, whose BatchNorm statistics are matched too; 0 = none
    region: float = 1.0  # share of each side of the random region that a step updates; 1 = the whole image
    loss: InversionLossConfig = field(default_factory=InversionLossConfig)


@dataclass
class RecoveryConfig(InversionStepConfig):
    """Settings that all inversion methods use."""

    images_per_class: int = 30  # images of each pool


@dataclass
class InversionConfig(RecoveryConfig):
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
    check_teachers: bool = True  # sampling weights by teacher reliability: broken teachers 0, unreliable ones low; false = all equal


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
# Classifiers of a new task's features, for networks that are used as feature extractors.
CLASSIFIERS = ("nearest_centroid", "logistic")
# Oracles: networks trained on real images of the teachers' classes, as an upper bound. `searched` is a classifier with the architecture of
# the search `nas.searched`.
ORACLES = ("classifier", "searched", "protonet", "maml")
# Keys of `evaluation` that are sets, and their members in the order in which a resolved configuration has them.
SETS = {"inference": INFERENCE, "classifiers": CLASSIFIERS, "oracles": ORACLES}


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
    oracles: list[str] = field(default_factory=lambda: ["classifier"])  # of ORACLES; may be empty
    oracle_steps: int = 300  # training steps of the oracles and of the independent classifier
    oracle_backbone: BackboneConfig = field(default_factory=BackboneConfig)  # backbone of the oracles and of the row `random`


@dataclass
class TrackingConfig:
    enabled: bool = True  # log every job to MLflow
    experiment: str = "datafree"  # name of the MLflow experiment


@dataclass
class Config:
    seed: int = 0  # of all random numbers; meta-training has its own seeds in addition
    device: str = "auto"  # cpu, cuda or cuda:N; auto = a GPU if PyTorch can use one, otherwise the CPU
    precision: Precision = Precision.auto  # of convolutions and matrix products; weights and losses are always float32
    accept_other_hardware: bool = False  # true = results of another device, processor kind or precision count as up to date
    backbone: BackboneConfig = field(default_factory=BackboneConfig)  # default of every arm and oracle
    data: DataConfig = field(default_factory=DataConfig)
    zoo: ZooConfig = field(default_factory=ZooConfig)
    inversion: InversionConfig = field(default_factory=InversionConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    meta: MetaConfig = field(default_factory=MetaConfig)
    nas: NasConfig = field(default_factory=NasConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)


# Inclusive bounds (lowest, highest) by dotted key; None = unbounded. `*` stands for any one name. Those of arms and searches are in
# datafree.config.arms and datafree.config.algorithms.
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
    "zoo.shard_size": (1, None),
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
