"""Rows of the few-shot table: the models of the meta-learning arms, the baselines and the real-data oracles."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from datafree import devices
from datafree.config import AdaptationConfig, AdaptedPart, EvaluationConfig, typed
from datafree.distillation.heads import TeacherHeads
from datafree.evaluation.baselines import average_weights, batch_statistics_features, network_embedding, pixels, teachers_together
from datafree.evaluation.classifiers import CLASSIFIERS, Classifier, vote, weighted
from datafree.evaluation.few_shot import Concatenated, Embedding, EpisodesSolver, Solver
from datafree.evaluation.nearest_centroid import nearest_centroid
from datafree.evaluation.readouts import FEATURES_ONLY, Reader, heads_of
from datafree.evaluation.representations import EQUAL, JoinWeights, side_by_side_factors, weights_for
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
from datafree.zoo.teachers import Teacher

BEST = "best teacher"


@dataclass(frozen=True)
class TrainedNetwork:
    """A backbone, the normalisation of its inputs, its card (``parameters``, ``arm`` or ``reference``, ``adaptation`` and more), and its
    trained heads, None if it has none, with the weights for ``joined``."""

    card: Mapping[str, Any]
    backbone: Backbone
    normalise: Normalise
    heads: TeacherHeads | nn.Linear | None = None
    weights: JoinWeights = EQUAL


@dataclass(frozen=True)
class EvaluatedModel:
    """A model to be evaluated on few-shot episodes; models of one name and variant are seeds of one row.

    ``kind`` is arm, baseline or oracle; ``networks`` counts the networks that an image passes through. ``classify`` classifies the
    representations that ``embedding`` has under ``readout``; a ``solve``, if given, classifies from the images of an episode instead.
    ``variant`` distinguishes rows of one network: the inference, the read-out and the classifier, where they are not the plain ones.
    """

    name: str
    kind: str
    description: str
    embedding: Embedding
    networks: int
    parameters: int
    seed: int = 0
    variant: str = ""
    readout: str = "features"
    classify: Classifier = nearest_centroid
    solve: Solver | EpisodesSolver | None = None


def learners(
    networks: Sequence[TrainedNetwork], config: EvaluationConfig, device: torch.device, *, together: bool = False
) -> list[EvaluatedModel]:
    """The trained arms: for each network one model per combination of inference, read-out and classifier in ``config``.

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
    """One model per inference and, for a network that does not adapt, per read-out and classifier."""
    backbone, normalise = network.backbone, network.normalise
    together = together and can_be_stacked(backbone)
    parameters = parameter_count(backbone)
    rule: AdaptationConfig | None = typed(AdaptationConfig, network.card["adaptation"]) if "adaptation" in network.card else None
    if rule is not None and rule.part is not AdaptedPart.nothing:
        embedding = network_embedding(backbone, normalise, FEATURES_ONLY, device, mirrored=False)
        base = EvaluatedModel(name, kind, f"{description}; {describe(rule)}", embedding, 1, parameters, seed)
        return [_adapting(base, network, rule, inference, together) for inference in config.inference]
    heads = None if network.heads is None else heads_of(network.heads.to(device))
    reader = Reader.of(config.readouts, heads, network.weights)
    embedding = network_embedding(backbone, normalise, reader, device, mirrored=config.mirrored)
    read = _read(EvaluatedModel(name, kind, description, embedding, 1, parameters, seed), reader, config.classifiers)
    models = []
    for inference in config.inference:
        transductive = inference == "transductive"
        models += [_transductive(model, network, reader, together, config.mirrored) for model in read] if transductive else read
    return models


def _adapting(base: EvaluatedModel, network: TrainedNetwork, rule: AdaptationConfig, inference: str, together: bool) -> EvaluatedModel:
    transductive = inference == "transductive"
    from_features = rule.part is AdaptedPart.head and not transductive
    solver = StackedAdaptation if together else adaptation_solver
    solve = None if from_features else solver(network.backbone, network.normalise, rule, transductive=transductive)
    return dataclasses.replace(base, variant="transductive" if transductive else "", classify=head_classifier(rule), solve=solve)


def _transductive(model: EvaluatedModel, network: TrainedNetwork, reader: Reader, together: bool, mirrored: bool) -> EvaluatedModel:
    """The model with the BatchNorm statistics of each episode."""
    solver = StackedTransduction if together else transductive_solver
    backbone = network.backbone if together else without_running_statistics(network.backbone)
    solve = solver(backbone, network.normalise, model.classify, reader.only(model.readout), mirrored=mirrored)
    return dataclasses.replace(model, variant=" ".join(["transductive", model.variant]).strip(), solve=solve)


def _read(base: EvaluatedModel, reader: Reader, classifiers: Sequence[str]) -> list[EvaluatedModel]:
    """A model per read-out of ``reader`` and classifier, from one whose embedding has these read-outs."""
    return [
        dataclasses.replace(
            base,
            description=f"{base.description}; {reader.describe(readout)}",
            variant=_variant(reader.variant(readout), classifier),
            readout=readout,
            classify=CLASSIFIERS[classifier],
        )
        for readout in reader.readouts
        for classifier in classifiers
    ]


def _variant(readout: str, classifier: str) -> str:
    return " ".join([readout, "" if classifier == "nearest_centroid" else classifier]).strip()


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

    Teachers are read by each of ``config.readouts``, other networks and pixels by their features alone. Every teacher is a model;
    ``accuracy_table`` keeps the best. ``together``: all teachers of one architecture are computed in one pass.
    """
    random = build(config.oracle_backbone, shape[0], shape[1], devices.derive_seed(seed, "random"))
    normalise = Normalise([0.5] * shape[0], [0.25] * shape[0])
    untrained = batch_statistics_features(random, normalise, device)
    simple = [
        EvaluatedModel("pixels", "baseline", "pixel values as features", pixels, 0, 0),
        EvaluatedModel("random", "baseline", "features of an untrained network", untrained, 1, parameter_count(random)),
    ]
    average = average_weights(teachers)
    if average is not None:
        backbone = average.network.backbone
        features = network_embedding(backbone, average.normalise, FEATURES_ONLY, device, mirrored=config.mirrored)
        description = "features of the mean of all teachers' weights"
        simple.append(EvaluatedModel("averaged teachers", "baseline", description, features, 1, parameter_count(backbone)))
    classified = [
        dataclasses.replace(model, classify=CLASSIFIERS[name], variant=_variant("", name))
        for model in simple
        for name in config.classifiers
    ]
    return classified + _teachers(teachers, config, device, together)


def _teachers(teachers: Sequence[Teacher], config: EvaluationConfig, device: torch.device, together: bool) -> list[EvaluatedModel]:
    """Each teacher by itself, all of them side by side, and their vote."""
    readers = [Reader.of(config.readouts, heads_of(t.network.head), weights_for(len(t.classes))) for t in teachers]
    counts = [parameter_count(teacher.network.backbone) for teacher in teachers]
    singles = [
        EvaluatedModel(
            f"{BEST}/{teacher.name}",
            "baseline",
            "one teacher",
            network_embedding(teacher.network.backbone, teacher.normalise, reader, device, mirrored=config.mirrored),
            1,
            count,
        )
        for teacher, reader, count in zip(teachers, readers, counts, strict=True)
    ]
    all_parts = teachers_together(teachers, readers, mirrored=config.mirrored) if together else None
    concatenated = Concatenated([model.embedding for model in singles], all_parts)
    whole = EvaluatedModel("all teachers", "baseline", "all teachers side by side", concatenated, len(teachers), sum(counts))
    voting = dataclasses.replace(whole, name="teachers' vote", description="majority vote of classifiers, one for each teacher")
    sizes = [_sizes(teacher, reader) for teacher, reader in zip(teachers, readers, strict=True)]
    read = [model for base in singles for model in _read(base, readers[0], config.classifiers)]
    for model in _read(whole, readers[0], config.classifiers):
        columns = _side_by_side(teachers) if model.readout == "joined" else None
        read.append(model if columns is None else dataclasses.replace(model, classify=weighted(columns, model.classify)))
    return read + [
        dataclasses.replace(model, classify=vote([of_teacher[model.readout] for of_teacher in sizes], model.classify))
        for model in _read(voting, readers[0], config.classifiers)
    ]


def _sizes(teacher: Teacher, reader: Reader) -> dict[str, int]:
    """The size of each of a teacher's representations."""
    features = teacher.network.head.weight.new_zeros(1, teacher.network.backbone.feature_size)
    return {name: value.shape[1] for name, value in reader(features).items()}


def _side_by_side(teachers: Sequence[Teacher]) -> torch.Tensor:
    """``side_by_side_factors`` of all teachers' ``joined``."""
    counts = [len(teacher.classes) for teacher in teachers]
    sizes = [teacher.network.backbone.feature_size for teacher in teachers]
    return torch.cat([side_by_side_factors(size, count, sum(counts)) for size, count in zip(sizes, counts, strict=True)])
