"""Who enters the few-shot table: the learners, what is to be had without them, and what real data gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from datafree import artifacts, devices
from datafree.config import AdaptationConfig, AdaptedPart, EvaluationConfig, typed
from datafree.evaluation.adapting import adapting_head, adapting_solver, batch_statistics, transductive_solver
from datafree.evaluation.baselines import average_weights, backbone_features, batch_statistics_features, pixels
from datafree.evaluation.classifiers import CLASSIFIERS, Classifier, nearest_centroid, vote
from datafree.evaluation.few_shot import Concatenated, Embedding, Solver
from datafree.meta.adaptation import describe
from datafree.zoo.backbones import Backbone, Normalise, build, parameter_count
from datafree.zoo.networks import read_backbone, read_classifier
from datafree.zoo.teachers import Teacher

BEST = "best teacher"


@dataclass(frozen=True)
class EvaluatedModel:
    """Something that solves episodes. Several entrants of one name are its seeds.

    ``kind`` is arm, baseline or oracle; ``networks`` counts the networks that one image passes through. Features (``embedding``) are
    classified by ``classify``, unless there is a ``solve``, which takes the images of an episode together.
    ``variant`` tells apart the rows of one learner: how it was evaluated, where that is not the plain way.
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
    solve: Solver | None = None


def learned(weights: Sequence[Path], cards: Sequence[Path], config: EvaluationConfig, device: torch.device) -> list[EvaluatedModel]:
    """The meta-learners: per arm and seed an entrant for each way of evaluating it that ``config`` asks for."""
    models = []
    for path, card_path in zip(weights, cards, strict=True):
        card = artifacts.read_json(card_path)
        description = f"{card['method']} on images recovered by {card['inversion']}; {card['backbone']['name']}"
        models += _of_card(path, card_path, card["arm"], "arm", description, card["seed"], config, device)
    return models


def oracles(weights: Sequence[Path], cards: Sequence[Path], config: EvaluationConfig, device: torch.device) -> list[EvaluatedModel]:
    """The ceilings: classifiers and learners trained on real images of all teachers' classes."""
    models = []
    for path, card_path in zip(weights, cards, strict=True):
        card = artifacts.read_json(card_path, "reference")
        if "method" in card:
            name, description = f"real-data {card['method']}", f"{card['method']} on the teachers' real images"
            models += _of_card(path, card_path, name, "oracle", description, 0, config, device)
        else:
            searched = card["reference"] == "searched"
            models += _classifier(path, card_path, f"real-data oracle{', searched' if searched else ''}", config, device)
    return models


def _of_card(
    weights: Path, card_path: Path, name: str, kind: str, description: str, seed: int, config: EvaluationConfig, device: torch.device
) -> list[EvaluatedModel]:
    card = artifacts.read_json(card_path, "adaptation")
    backbone, normalise = read_backbone(weights, card_path)
    plain = EvaluatedModel(name, kind, description, backbone_features(backbone, normalise, device), 1, card["parameters"], seed)
    return _evaluations(plain, backbone, normalise, typed(AdaptationConfig, card["adaptation"]), config)


def _evaluations(
    plain: EvaluatedModel, backbone: Backbone, normalise: Normalise, rule: AdaptationConfig, config: EvaluationConfig
) -> list[EvaluatedModel]:
    """One entrant per inference, and per classifier if the network is a feature extractor; the network is on its device already."""
    found = []
    for inference in config.inference:
        transductive = inference == "transductive"
        words = ["transductive"] if transductive else []
        if rule.part is AdaptedPart.nothing:
            network = batch_statistics(backbone) if transductive else backbone
            for name in config.classifiers:
                solve = transductive_solver(network, normalise, CLASSIFIERS[name]) if transductive else None
                one = _classified(plain, name, CLASSIFIERS[name])
                found.append(dataclasses.replace(one, variant=" ".join([*words, one.variant]).strip(), solve=solve))
        else:
            by_features = rule.part is AdaptedPart.head and not transductive
            solve = None if by_features else adapting_solver(backbone, normalise, rule, transductive=transductive)
            description = f"{plain.description}; {describe(rule)}"
            found.append(
                dataclasses.replace(plain, description=description, variant=" ".join(words), classify=adapting_head(rule), solve=solve)
            )
    return found


def baselines(
    teachers: Sequence[Teacher], shape: Sequence[int], config: EvaluationConfig, seed: int, device: torch.device
) -> list[EvaluatedModel]:
    """What needs no recovered image, for images of ``shape`` [C, H, W], with each classifier that ``config`` asks for.

    Every teacher is an entrant; ``compare`` keeps the best. All are inductive.
    """
    random = build(config.oracle_backbone, shape[0], shape[1], devices.derive_seed(seed, "random"))
    normalise = Normalise([0.5] * shape[0], [0.25] * shape[0])
    sizes = [parameter_count(teacher.network.backbone) for teacher in teachers]
    singles = [backbone_features(t.network.backbone, t.normalise, device) for t in teachers]
    models = [
        EvaluatedModel("pixels", "baseline", "the image itself", pixels, 0, 0),
        EvaluatedModel(
            "random", "baseline", "untrained network", batch_statistics_features(random, normalise, device), 1, parameter_count(random)
        ),
        *(
            EvaluatedModel(f"{BEST}/{teacher.name}", "baseline", "one teacher's features", features, 1, size)
            for teacher, features, size in zip(teachers, singles, sizes, strict=True)
        ),
    ]
    average = average_weights(teachers)
    if average is not None:
        features = backbone_features(average.network.backbone, average.normalise, device)
        models.append(EvaluatedModel("averaged teachers", "baseline", "mean of all teachers' weights", features, 1, sizes[0]))
    together = EvaluatedModel(
        "all teachers", "baseline", "features of all teachers side by side", Concatenated(singles), len(teachers), sum(sizes)
    )
    voting = dataclasses.replace(together, name="teachers' vote", description="each teacher's features name a class, and most votes win")
    lengths = [teacher.network.backbone.feature_size for teacher in teachers]
    found = [_classified(model, name, CLASSIFIERS[name]) for model in [*models, together] for name in config.classifiers]
    return found + [_classified(voting, name, vote(lengths, CLASSIFIERS[name])) for name in config.classifiers]


def _classified(model: EvaluatedModel, name: str, classify: Classifier) -> EvaluatedModel:
    return dataclasses.replace(model, classify=classify, variant="" if name == "nearest_centroid" else name)


def _classifier(weights: Path, card_path: Path, name: str, config: EvaluationConfig, device: torch.device) -> list[EvaluatedModel]:
    network, normalise = read_classifier(weights, card_path)
    features = backbone_features(network.backbone, normalise, device)
    size = parameter_count(network.backbone)
    plain = EvaluatedModel(name, "oracle", "trained on the teachers' real images", features, 1, size)
    return _evaluations(plain, network.backbone, normalise, AdaptationConfig(), config)
