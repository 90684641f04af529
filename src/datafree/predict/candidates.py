"""The networks that a user can learn new classes with, compared: accuracy on validation classes, size and time.

These are every learner, every teacher as it is, and the most accurate teachers side by side. All are measured as they are used.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from datafree import devices
from datafree.config import EvaluationConfig
from datafree.data.images import ImageSet
from datafree.evaluation.few_shot import embed, episode_accuracies, episode_rows
from datafree.evaluation.intervals import mean_interval
from datafree.nas.latency import milliseconds
from datafree.predict.comparison import LEARNER, TEACHER, TEACHERS
from datafree.predict.network import TrainedLearner, factors_of, joined_side_by_side
from datafree.tasks.pools import balanced_rows

IMAGES_PER_CLASS = 100  # of the validation classes; bounds the cost for zoos of many teachers

Row = dict[str, Any]


def compare(
    learners: Mapping[str, TrainedLearner],
    teachers: Mapping[str, TrainedLearner],
    images: ImageSet,
    config: EvaluationConfig,
    seed: int,
    device: torch.device,
) -> list[Row]:
    """One row per candidate, the most accurate first, by the accuracy averaged over ``config.shots``.

    A row has ``name``, ``kind``, ``members`` (names of the networks), ``parameters``, ``macs`` (multiply-adds of an image, with its mirror
    image where ``config.mirrored``), and ``shots``: by number of support images per class, mean accuracy, 95 % interval and number of
    episodes. ``images`` are those of the classes to choose by, at least ``config.query`` more than the largest of ``config.shots`` per
    class. Teachers side by side are the 2, 4, 8, … most accurate ones, and all.
    """
    chosen = _some(images, config, seed)
    rows_of = {
        shot: episode_rows(chosen.labels, way=config.way, shot=shot, query=config.query, episodes=config.episodes, seed=seed)
        for shot in config.shots
    }
    views = 1 + config.mirrored

    def row(name: str, kind: str, members: Mapping[str, TrainedLearner], values: Tensor) -> Row:
        cards = [member.card for member in members.values()]
        return {
            "name": name,
            "kind": kind,
            "members": list(members),
            "parameters": sum(card["parameters"] for card in cards),
            "macs": views * sum(card["macs"] for card in cards),
            "shots": {str(shot): mean_interval(episode_accuracies(values, rows, shot)) for shot, rows in rows_of.items()},
        }

    def represented(learner: TrainedLearner) -> Tensor:
        learner.network.to(device)
        return embed(lambda batch: {"": learner.network(batch)}, chosen.images, device)[""]

    rows = [row(name, LEARNER, {name: learner}, represented(learner)) for name, learner in learners.items()]
    of_teachers = {name: represented(teacher) for name, teacher in teachers.items()}
    single = ordered([row(name, TEACHER, {name: teachers[name]}, values) for name, values in of_teachers.items()])
    for names in _groups([teacher["name"] for teacher in single]):
        factors = factors_of([network for name in names for network in teachers[name].members]).cpu()
        values = joined_side_by_side([of_teachers[name] for name in names], factors)
        rows.append(row(f"{len(names)} teachers", TEACHERS, {name: teachers[name] for name in names}, values))
    return ordered([*rows, *single])


def ordered(rows: list[Row]) -> list[Row]:
    """Rows by their accuracy averaged over the numbers of shots, the highest first."""
    return sorted(rows, key=lambda row: -mean_accuracy(row))


def mean_accuracy(row: Mapping[str, Any]) -> float:
    """The accuracy of a row averaged over the numbers of shots, in [0, 1]."""
    return sum(value["mean"] for value in row["shots"].values()) / len(row["shots"])


def _some(images: ImageSet, config: EvaluationConfig, seed: int) -> ImageSet:
    """At most ``IMAGES_PER_CLASS`` images of each class, or as many as an episode needs."""
    count = max(IMAGES_PER_CLASS, max(config.shots) + config.query) * len(images.classes)
    chosen = balanced_rows(images.labels, count, devices.generator(seed, "candidates")).sort().values
    return ImageSet(images.images[chosen], images.labels[chosen], images.classes)


def _groups(names: list[str]) -> Iterator[list[str]]:
    """The first 2, 4, 8, … names, and all of them."""
    size = 2
    while size < len(names):
        yield names[:size]
        size *= 2
    if len(names) > 1:
        yield names


@torch.no_grad()
def times(learners: Iterable[TrainedLearner], device: torch.device) -> list[float]:
    """Milliseconds that each learner takes for one image on this machine; networks of equal layers are measured once."""
    measured: dict[str, float] = {}
    values = []
    for learner in learners:
        network, layers = learner.network.to(device), str(learner.network)  # the text lists all layers with their sizes
        if layers not in measured:
            image = torch.zeros(1, *learner.card["input"], dtype=torch.uint8, device=device)
            measured[layers] = milliseconds(functools.partial(network, image), device)
        values.append(measured[layers])
    return values
