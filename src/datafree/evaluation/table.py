"""The few-shot table: everything that can be compared, on the same episodes."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.data.layout import by_domain
from datafree.evaluation.few_shot import Concatenated, Embedding, embed, episode_accuracies, episode_rows, solved_episodes
from datafree.evaluation.intervals import mean_interval, over_seeds
from datafree.evaluation.rows import BEST, EvaluatedModel

# By domain and shot; the domain is empty where there is but one.
Accuracies = dict[tuple[str, int], list[float]]  # of every episode
Planned = Mapping[tuple[str, int], Tensor]  # ``episode_rows``


def compare(
    models: Sequence[EvaluatedModel], images: ImageSet, config: EvaluationConfig, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per name and variant, in the order of the entrants: for each shot mean, 95 % interval, n, and the same per seed.

    With ``config.by_domain`` there are as many episodes within each domain, and a row's ``domains`` holds the same shots for each of them;
    its ``shots`` are of all domains' episodes together.

    Of the single teachers the row ``best teacher`` keeps, per shot, the one that scores best here: a choice that no one could make
    beforehand, in the baseline's favour.
    """
    domains = by_domain(images.classes) if config.by_domain else {"": list(range(len(images.classes)))}
    found: dict[str, list[tuple[EvaluatedModel, Accuracies]]] = defaultdict(list)
    features = _Features({part for model in models if isinstance(model.embedding, Concatenated) for part in model.embedding.parts})
    planned = {
        (domain, shot): _episodes(images, classes, shot, config, seed) for domain, classes in domains.items() for shot in config.shots
    }
    for model in models:
        name = " ".join([model.name.split("/")[0], model.variant]).strip()
        found[name].append((model, _accuracies(model, images, planned, device, features)))
    return [_row(name, members, config.shots) for name, members in found.items()]


def _episodes(images: ImageSet, classes: Sequence[int], shot: int, config: EvaluationConfig, seed: int) -> Tensor:
    """``episode_rows`` of the images of some classes, as positions among all images."""
    own = torch.nonzero(torch.isin(images.labels, torch.tensor(classes))).flatten()
    counts = {"way": config.way, "shot": shot, "query": config.query, "episodes": config.episodes}
    return own[episode_rows(images.labels[own], **counts, seed=seed)]


class _Features:
    """Features that were computed: the last ones, as the classifiers of one network come one after the other, and those of ``parts``, which
    serve once by themselves and once side by side."""

    def __init__(self, parts: Collection[Embedding]) -> None:
        self.parts: dict[Embedding, Tensor | None] = dict.fromkeys(parts)
        self.last: tuple[Embedding, Tensor] | None = None

    def of(self, embedding: Embedding, images: Tensor, device: torch.device) -> Tensor:
        if self.last is None or embedding is not self.last[0]:
            if isinstance(embedding, Concatenated):
                values = embedding.join([self._single(part, images, device) for part in embedding.parts])
            else:
                values = self._single(embedding, images, device)
            self.last = embedding, values
        return self.last[1]

    def _single(self, embedding: Embedding, images: Tensor, device: torch.device) -> Tensor:
        known = self.parts.get(embedding)
        if known is None:
            known = embed(embedding, images, device)
            if embedding in self.parts:
                self.parts[embedding] = known
        return known


def _accuracies(model: EvaluatedModel, images: ImageSet, planned: Planned, device: torch.device, known: _Features) -> Accuracies:
    if model.solve:
        return {key: solved_episodes(model.solve, images.images, rows, key[1], device) for key, rows in planned.items()}
    features = known.of(model.embedding, images.images, device)
    return {key: episode_accuracies(features, rows, key[1], model.classify) for key, rows in planned.items()}


def _row(name: str, members: list[tuple[EvaluatedModel, Accuracies]], shots: Sequence[int]) -> dict[str, Any]:
    first, domains = members[0][0], list(dict.fromkeys(domain for domain, _ in members[0][1]))
    table: dict[str, dict[str, Any]] = {}
    apart: dict[str, dict[str, Any]] = {domain: {} for domain in domains if domain}
    for shot in shots:
        runs = [(model.seed, {domain: accuracies[domain, shot] for domain in domains}) for model, accuracies in members]
        if first.name.startswith(f"{BEST}/"):
            runs = [max(runs, key=lambda run: sum(map(sum, run[1].values())))]
        together = [(run_seed, list(itertools.chain(*values.values()))) for run_seed, values in runs]
        table[str(shot)] = _shot(together)
        for domain in apart:
            apart[domain][str(shot)] = _shot([(run_seed, values[domain]) for run_seed, values in runs])
    return {
        "name": name,
        "kind": first.kind,
        "variant": first.variant,
        "description": first.description,
        "networks": first.networks,
        "parameters": first.parameters,
        "seeds": [entry["seed"] for entry in table[str(shots[0])]["per_seed"]],
        "shots": table,
        **({"domains": apart} if apart else {}),
    }


def _shot(runs: Sequence[tuple[int, list[float]]]) -> dict[str, Any]:
    per_seed = [{"seed": run_seed, **mean_interval(values)} for run_seed, values in runs]
    return {**over_seeds([values for _, values in runs]), "per_seed": per_seed}
