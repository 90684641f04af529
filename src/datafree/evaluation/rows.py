"""Rows of the few-shot table: the models of the meta-learning arms, the baselines and the real-data oracles."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datafree import devices
from datafree.config import AdaptationConfig, AdaptedPart, EvaluationConfig, typed
from datafree.evaluation.baselines import average_weights, backbone_features, batch_statistics_features, pixels
from datafree.evaluation.classifiers import CLASSIFIERS, Classifier, vote
from datafree.evaluation.few_shot import Concatenated, Embedding, EpisodesSolver, Solver
from datafree.evaluation.nearest_centroid import nearest_centroid
from datafree.evaluation.task_adaptation import (
    StackedAdaptation,
    StackedTransduction,
    adaptation_solver,
    head_classifier,
    transductive_solver,
    without_running_statistics,
)
from datafree.meta.adaptation import describe
from datafree.meta.task_stacks import can_be_stacked
from datafree.nas.networks import build
from datafree.zoo.backbones import Backbone, Normalise, parameter_count
from datafree.zoo.teacher_passes import features_of_all
from datafree.zoo.teachers import Teacher

BEST = "best teacher"


@dataclass(frozen=True)
class TrainedNetwork:
    """A backbone, the normalisation of its inputs, and its card: ``parameters``, ``arm`` or ``reference``, ``adaptation`` and more."""

    card: Mapping[str, Any]
    backbone: Backbone
    normalise: Normalise


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be evaluated on few-shot episodes; models of one name and variant are seeds of one row.

    ``kind`` is arm, baseline or oracle; ``networks`` counts the networks that an image passes through. ``classify`` classifies the
    features of ``embedding``; a ``solve``, if given, classifies from the images of an episode instead. ``variant`` distinguishes rows of
    one learner: the inference and the classifier, unless they are inductive and nearest centroid.
    """

    name: str
    kind: str
    description: str
    embedding: Embedding
    networks: int
    parameters: int
    seed: int = 0
    variant: str = ""
    classify: Classifier = nearest_centroid
    solve: Solver | EpisodesSolver | None = None


def learners(
    networks: Sequence[TrainedNetwork], config: EvaluationConfig, device: torch.device, *, together: bool = False
) -> list[EvaluatedModel]:
    """The trained arms: for each network one model per combination of inference and classifier in ``config``.

    ``together``: episodes to which a network adapts are solved in one pass, as many as fit into the memory of the device.
    """
    models = []
    for network in networks:
        card = network.card
        description = f"{card['method']} on images recovered by {card['inversion']}; {card['backbone']['name']}"
        models += _evaluations(network, card["arm"], "arm", description, card["seed"], config, device, together)
    return models


def oracles(
    networks: Sequence[TrainedNetwork], config: EvaluationConfig, device: torch.device, *, together: bool = False
) -> list[EvaluatedModel]:
    """The upper bounds: classifiers and meta-learners trained on real images of all teachers' classes; ``together`` as for learners."""
    models = []
    for network in networks:
        method = network.card.get("method")
        if method:
            name, description = f"real-data {method}", f"{method} on the teachers' real images"
        else:
            searched = network.card["reference"] == "searched"
            name, description = f"real-data oracle{', searched' if searched else ''}", "trained on the teachers' real images"
        models += _evaluations(network, name, "oracle", description, 0, config, device, together)
    return models


def _evaluations(
    network: TrainedNetwork,
    name: str,
    kind: str,
    description: str,
    seed: int,
    config: EvaluationConfig,
    device: torch.device,
    together: bool,
) -> list[EvaluatedModel]:
    """One model per inference and, for a network that does not adapt, per classifier."""
    backbone, normalise = network.backbone, network.normalise
    features = backbone_features(backbone, normalise, device)
    together = together and can_be_stacked(backbone)
    base = EvaluatedModel(name, kind, description, features, 1, parameter_count(backbone), seed)
    rule: AdaptationConfig | None = typed(AdaptationConfig, network.card["adaptation"]) if "adaptation" in network.card else None
    models = []
    for inference in config.inference:
        transductive = inference == "transductive"
        variant = ["transductive"] if transductive else []
        if rule is None or rule.part is AdaptedPart.nothing:
            extractor = without_running_statistics(backbone) if transductive and not together else backbone
            for classifier in config.classifiers:
                solver = StackedTransduction if together else transductive_solver
                solve = solver(extractor, normalise, CLASSIFIERS[classifier]) if transductive else None
                model = _with_classifier(base, classifier, CLASSIFIERS[classifier])
                models.append(dataclasses.replace(model, variant=" ".join([*variant, model.variant]).strip(), solve=solve))
        else:
            from_features = rule.part is AdaptedPart.head and not transductive
            solver = StackedAdaptation if together else adaptation_solver
            solve = None if from_features else solver(backbone, normalise, rule, transductive=transductive)
            adapted = f"{description}; {describe(rule)}"
            models.append(
                dataclasses.replace(base, description=adapted, variant=" ".join(variant), classify=head_classifier(rule), solve=solve)
            )
    return models


def baselines(
    teachers: Sequence[Teacher],
    shape: Sequence[int],
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
    *,
    together: bool = False,
) -> list[EvaluatedModel]:
    """The baselines, which need no recovered image, for images of ``shape`` [C, H, W], with each of ``config.classifiers``; all inductive.

    Every teacher is a model; ``accuracy_table`` keeps the best. ``together``: the features of all teachers of one architecture are computed
    in one pass.
    """
    random = build(config.oracle_backbone, shape[0], shape[1], devices.derive_seed(seed, "random"))
    normalise = Normalise([0.5] * shape[0], [0.25] * shape[0])
    sizes = [parameter_count(teacher.network.backbone) for teacher in teachers]
    singles = [backbone_features(t.network.backbone, t.normalise, device) for t in teachers]
    models = [
        EvaluatedModel("pixels", "baseline", "pixel values as features", pixels, 0, 0),
        EvaluatedModel(
            "random", "baseline", "untrained network", batch_statistics_features(random, normalise, device), 1, parameter_count(random)
        ),
        *(
            EvaluatedModel(f"{BEST}/{teacher.name}", "baseline", "features of one teacher", features, 1, size)
            for teacher, features, size in zip(teachers, singles, sizes, strict=True)
        ),
    ]
    average = average_weights(teachers)
    if average is not None:
        features = backbone_features(average.network.backbone, average.normalise, device)
        models.append(EvaluatedModel("averaged teachers", "baseline", "mean of all teachers' weights", features, 1, sizes[0]))
    all_teachers = Concatenated(singles, functools.partial(features_of_all, teachers) if together else None)
    concatenated = EvaluatedModel(
        "all teachers", "baseline", "concatenated features of all teachers", all_teachers, len(teachers), sum(sizes)
    )
    voting = dataclasses.replace(concatenated, name="teachers' vote", description="majority vote of classifiers on each teacher's features")
    feature_sizes = [teacher.network.backbone.feature_size for teacher in teachers]
    classified = [_with_classifier(model, name, CLASSIFIERS[name]) for model in [*models, concatenated] for name in config.classifiers]
    return classified + [_with_classifier(voting, name, vote(feature_sizes, CLASSIFIERS[name])) for name in config.classifiers]


def _with_classifier(model: EvaluatedModel, name: str, classify: Classifier) -> EvaluatedModel:
    return dataclasses.replace(model, classify=classify, variant="" if name == "nearest_centroid" else name)
