"""Settings of the inversion methods and the meta-generator, one dataclass each, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


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
    compile: bool = False  # on a GPU, true = compile the teachers' forward and backward passes; pays for many steps of one architecture
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


# Inclusive bounds, as datafree.config.schema.BOUNDS.
INVERSION_BOUNDS: dict[str, tuple[float | None, float | None]] = {
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
}
