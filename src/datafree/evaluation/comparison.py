"""The few-shot table: everything that can be compared, on the same episodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.evaluation.entrants import BEST, Entrant
from datafree.evaluation.few_shot import Embedding, embed, episode_accuracies, solved_episodes
from datafree.evaluation.intervals import mean_interval, over_seeds


def compare(
    entrants: Sequence[Entrant], images: ImageSet, config: EvaluationConfig, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per name and variant, in the order of the entrants: for each shot mean, 95 % interval, n, and the same per seed.

    Of the single teachers the row ``best teacher`` keeps, per shot, the one that scores best here: a choice that no one could make
    beforehand, in the baseline's favour.
    """
    found: dict[str, list[tuple[Entrant, dict[int, list[float]]]]] = defaultdict(list)
    last = _Features()
    for entrant in entrants:
        name = " ".join([entrant.name.split("/")[0], entrant.variant]).strip()
        found[name].append((entrant, _accuracies(entrant, images, config, seed, device, last)))
    return [_row(name, members, config.shots) for name, members in found.items()]


@dataclass
class _Features:
    """The features of the last embedding: the classifiers of one network come one after the other."""

    embedding: Embedding | None = None
    values: torch.Tensor | None = None

    def of(self, embedding: Embedding, images: torch.Tensor, device: torch.device) -> torch.Tensor:
        if self.values is None or embedding is not self.embedding:
            self.embedding, self.values = embedding, embed(embedding, images, device)
        return self.values


def _accuracies(
    entrant: Entrant, images: ImageSet, config: EvaluationConfig, seed: int, device: torch.device, last: _Features
) -> dict[int, list[float]]:  # fmt: skip
    settings = {"way": config.way, "query": config.query, "episodes": config.episodes, "seed": seed}
    if entrant.solve is not None:
        return {shot: solved_episodes(entrant.solve, images, shot=shot, device=device, **settings) for shot in config.shots}
    features = last.of(entrant.embedding, images.images, device)
    return {shot: episode_accuracies(features, images.labels, shot=shot, classify=entrant.classify, **settings) for shot in config.shots}


def _row(name: str, members: list[tuple[Entrant, dict[int, list[float]]]], shots: Sequence[int]) -> dict[str, Any]:
    first = members[0][0]
    table = {}
    for shot in shots:
        runs = [(entrant.seed, accuracies[shot]) for entrant, accuracies in members]
        if first.name.startswith(f"{BEST}/"):
            runs = [max(runs, key=lambda run: sum(run[1]))]
        per_seed = [{"seed": run_seed, **mean_interval(values)} for run_seed, values in runs]
        table[str(shot)] = {**over_seeds([values for _, values in runs]), "per_seed": per_seed}
    return {
        "name": name,
        "kind": first.kind,
        "variant": first.variant,
        "description": first.description,
        "networks": first.networks,
        "parameters": first.parameters,
        "seeds": [entry["seed"] for entry in table[str(shots[0])]["per_seed"]],
        "shots": table,
    }
