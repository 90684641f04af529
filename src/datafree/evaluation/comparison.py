"""The few-shot table: everything that can be compared, on the same episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from datafree import artifacts, devices
from datafree.config import BackboneConfig, EvaluationConfig
from datafree.data.images import ImageSet
from datafree.evaluation.baselines import average_weights, backbone_features, batch_statistics_features, pixels
from datafree.evaluation.few_shot import Embedding, concatenated, embed, episode_accuracies
from datafree.evaluation.intervals import mean_interval, over_seeds
from datafree.zoo.backbones import Normalise, build, parameter_count
from datafree.zoo.networks import read_backbone, read_classifier
from datafree.zoo.teachers import Teacher


@dataclass(frozen=True)
class Entrant:
    """Something that turns images into features. Several entrants of one name are its seeds.

    ``kind`` is arm, baseline or oracle; ``networks`` counts the networks that one image passes through.
    """

    name: str
    kind: str
    description: str
    embedding: Embedding
    networks: int
    parameters: int
    seed: int = 0


def learned(weights: Sequence[Path], cards: Sequence[Path], device: torch.device) -> list[Entrant]:
    """The meta-learners, one entrant per arm and seed."""
    entrants = []
    for path, card_path in zip(weights, cards, strict=True):
        card = artifacts.read_json(card_path)
        backbone, normalise = read_backbone(path, card_path)
        description = f"{card['method']} on images recovered by {card['inversion']}; {card['backbone']['name']}"
        features = backbone_features(backbone, normalise, device)
        entrants.append(Entrant(card["arm"], "arm", description, features, 1, card["parameters"], card["seed"]))
    return entrants


def baselines(teachers: Sequence[Teacher], shape: Sequence[int], seed: int, device: torch.device) -> list[Entrant]:
    """What needs no recovered image, for images of ``shape`` [C, H, W]. Every teacher is an entrant; ``compare`` keeps the best."""
    random = build(BackboneConfig(), shape[0], shape[1], devices.derive_seed(seed, "random"))
    normalise = Normalise([0.5] * shape[0], [0.25] * shape[0])
    sizes = [parameter_count(teacher.network.backbone) for teacher in teachers]
    singles = [backbone_features(t.network.backbone, t.normalise, device) for t in teachers]
    entrants = [
        Entrant("pixels", "baseline", "the image itself", pixels, 0, 0),
        Entrant(
            "random", "baseline", "untrained network", batch_statistics_features(random, normalise, device), 1, parameter_count(random)
        ),
        *(
            Entrant(f"{BEST}/{teacher.name}", "baseline", "one teacher's features", features, 1, size)
            for teacher, features, size in zip(teachers, singles, sizes, strict=True)
        ),
        Entrant("all teachers", "baseline", "features of all teachers side by side", concatenated(singles), len(teachers), sum(sizes)),
    ]
    average = average_weights(teachers)
    if average is not None:
        features = backbone_features(average.network.backbone, average.normalise, device)
        entrants.append(Entrant("averaged teachers", "baseline", "mean of all teachers' weights", features, 1, sizes[0]))
    return entrants


def oracle(weights: Path, card_path: Path, device: torch.device) -> Entrant:
    """The ceiling: trained on the real images of all teachers' classes."""
    network, normalise = read_classifier(weights, card_path)
    features = backbone_features(network.backbone, normalise, device)
    return Entrant("real-data oracle", "oracle", "trained on the teachers' real images", features, 1, parameter_count(network.backbone))


BEST = "best teacher"


def compare(
    entrants: Sequence[Entrant], images: ImageSet, config: EvaluationConfig, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per name, in the order of the entrants: for each shot mean, 95 % interval, n, and the same per seed.

    Of the single teachers the row ``best teacher`` keeps, per shot, the one that scores best here: a choice that no one could make
    beforehand, in the baseline's favour.
    """
    found: dict[str, list[tuple[Entrant, dict[int, list[float]]]]] = defaultdict(list)
    for entrant in entrants:
        features = embed(entrant.embedding, images.images, device)
        accuracies = {
            shot: episode_accuracies(
                features, images.labels, way=config.way, shot=shot, query=config.query, episodes=config.episodes, seed=seed
            )
            for shot in config.shots
        }
        found[entrant.name.split("/")[0]].append((entrant, accuracies))
    return [_row(name, members, config.shots) for name, members in found.items()]


def _row(name: str, members: list[tuple[Entrant, dict[int, list[float]]]], shots: Sequence[int]) -> dict[str, Any]:
    first = members[0][0]
    table = {}
    for shot in shots:
        runs = [(entrant.seed, accuracies[shot]) for entrant, accuracies in members]
        if name == BEST:
            runs = [max(runs, key=lambda run: sum(run[1]))]
        per_seed = [{"seed": run_seed, **mean_interval(values)} for run_seed, values in runs]
        table[str(shot)] = {**over_seeds([values for _, values in runs]), "per_seed": per_seed}
    return {
        "name": name,
        "kind": first.kind,
        "description": first.description,
        "networks": first.networks,
        "parameters": first.parameters,
        "seeds": [entry["seed"] for entry in table[str(shots[0])]["per_seed"]],
        "shots": table,
    }
