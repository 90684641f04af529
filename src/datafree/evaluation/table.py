"""The few-shot accuracy table: all models evaluated on the same episodes, one row per method, baseline or oracle."""

from __future__ import annotations

import dataclasses
import itertools
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datafree import devices
from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.data.layout import by_domain
from datafree.evaluation.few_shot import Concatenated, Embedding, embed, episode_accuracies, episode_rows, solver_accuracies
from datafree.evaluation.intervals import mean_interval, over_seeds
from datafree.evaluation.rows import BEST, EvaluatedModel

# By domain and shot; the domain is empty without ``config.by_domain``.
Accuracies = dict[tuple[str, int], list[float]]  # one per episode
EpisodeRows = Mapping[tuple[str, int], Tensor]  # ``episode_rows``


def accuracy_table(
    models: Sequence[EvaluatedModel], images: ImageSet, config: EvaluationConfig, seed: int, device: torch.device
) -> list[dict[str, Any]]:
    """One row per name and variant, in the order of the models: for each shot mean, 95 % interval, n, and the same per seed.

    With ``config.by_domain`` ``config.episodes`` are sampled within each domain: a row's ``domains`` holds the shots of each domain, its
    ``shots`` are over all domains' episodes.

    The row ``best teacher`` is, per shot, the teacher that scores best on these same episodes. This favours the baseline, because
    the choice uses these results. Its ``teachers`` holds the name, the parameters and the shots of every teacher.
    """
    images = dataclasses.replace(images, images=devices.resident(images.images, device))
    domains = by_domain(images.classes) if config.by_domain else {"": list(range(len(images.classes)))}
    cache = _Cache({model.embedding for model in models if isinstance(model.embedding, Concatenated)})
    episodes = {
        (domain, shot): _episodes(images, classes, shot, config, seed) for domain, classes in domains.items() for shot in config.shots
    }
    evaluated: dict[str, list[tuple[EvaluatedModel, Accuracies]]] = defaultdict(list)
    for model in models:
        name = " ".join([model.name.split("/")[0], model.variant]).strip()
        evaluated[name].append((model, _accuracies(model, images, episodes, device, cache)))
    return [_row(name, members, config.shots) for name, members in evaluated.items()]


def _episodes(images: ImageSet, classes: Sequence[int], shot: int, config: EvaluationConfig, seed: int) -> Tensor:
    """``episode_rows`` of the images of ``classes``, as positions among all images."""
    positions = torch.nonzero(torch.isin(images.labels, torch.tensor(classes))).flatten()
    counts = {"way": config.way, "shot": shot, "query": config.query, "episodes": config.episodes}
    return positions[episode_rows(images.labels[positions], **counts, seed=seed)]


class _Cache:
    """Computed representations: the latest, because the read-outs and classifiers of one network come in sequence, and those of the parts
    of ``concatenated``, which are used once by themselves and once concatenated."""

    def __init__(self, concatenated: Collection[Concatenated]) -> None:
        self.whole_of = {part: whole for whole in concatenated for part in whole.parts}
        self.parts: dict[Embedding, Mapping[str, Tensor]] = {}
        self.latest: tuple[Embedding, Mapping[str, Tensor]] | None = None

    def representations(self, embedding: Embedding, images: Tensor, device: torch.device) -> Mapping[str, Tensor]:
        if self.latest is None or embedding is not self.latest[0]:
            if isinstance(embedding, Concatenated):
                values = embedding.join([self._single(part, images, device) for part in embedding.parts])
            else:
                values = self._single(embedding, images, device)
            self.latest = embedding, values
        return self.latest[1]

    def _single(self, embedding: Embedding, images: Tensor, device: torch.device) -> Mapping[str, Tensor]:
        whole = self.whole_of.get(embedding)
        if whole is None:
            return embed(embedding, images, device)
        if embedding not in self.parts and whole.all_parts:
            self.parts |= zip(whole.parts, whole.all_parts(images), strict=True)
        elif embedding not in self.parts:
            self.parts[embedding] = embed(embedding, images, device)
        return self.parts[embedding]


def _accuracies(model: EvaluatedModel, images: ImageSet, episodes: EpisodeRows, device: torch.device, cache: _Cache) -> Accuracies:
    if model.solve:
        return {key: solver_accuracies(model.solve, images.images, rows, key[1], device) for key, rows in episodes.items()}
    of_images = cache.representations(model.embedding, images.images, device)[model.readout]
    return {key: episode_accuracies(of_images, rows, key[1], model.classify) for key, rows in episodes.items()}


def _row(name: str, members: list[tuple[EvaluatedModel, Accuracies]], shots: Sequence[int]) -> dict[str, Any]:
    first, domains = members[0][0], list(dict.fromkeys(domain for domain, _ in members[0][1]))
    overall: dict[str, dict[str, Any]] = {}
    per_domain: dict[str, dict[str, Any]] = {domain: {} for domain in domains if domain}
    for shot in shots:
        runs = [(model.seed, {domain: accuracies[domain, shot] for domain in domains}) for model, accuracies in members]
        if first.name.startswith(f"{BEST}/"):
            runs = [max(runs, key=lambda run: sum(map(sum, run[1].values())))]
        overall[str(shot)] = _shot([(seed, list(itertools.chain(*values.values()))) for seed, values in runs])
        for domain in per_domain:
            per_domain[domain][str(shot)] = _shot([(seed, values[domain]) for seed, values in runs])
    return {
        "name": name,
        "kind": first.kind,
        "variant": first.variant,
        "description": first.description,
        "networks": first.networks,
        "parameters": first.parameters,
        "seeds": [entry["seed"] for entry in overall[str(shots[0])]["per_seed"]],
        "shots": overall,
        **({"domains": per_domain} if per_domain else {}),
        **({"teachers": _single_teachers(members, shots)} if first.name.startswith(f"{BEST}/") else {}),
    }


def _single_teachers(members: Sequence[tuple[EvaluatedModel, Accuracies]], shots: Sequence[int]) -> list[dict[str, Any]]:
    """Every teacher by itself."""
    return [
        {
            "name": model.name.removeprefix(f"{BEST}/"),
            "parameters": model.parameters,
            "shots": {
                str(shot): mean_interval(list(itertools.chain(*(values for (_, of), values in accuracies.items() if of == shot))))
                for shot in shots
            },
        }
        for model, accuracies in members
    ]


def _shot(runs: Sequence[tuple[int, list[float]]]) -> dict[str, Any]:
    per_seed = [{"seed": seed, **mean_interval(accuracies)} for seed, accuracies in runs]
    return {**over_seeds([accuracies for _, accuracies in runs]), "per_seed": per_seed}


def headline(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Mean accuracies of a table's arms, best teacher and oracles by a flat name, such as ``bell_5shot`` or ``best_teacher_1shot``.

    Few numbers, because experiments are compared by one column per number; the table has the other baselines.
    """
    return {
        f"{row['name'].replace(' ', '_')}_{shot}shot": result["mean"]
        for row in rows
        if row["kind"] != "baseline" or row["name"] == BEST
        for shot, result in row["shots"].items()
    }
