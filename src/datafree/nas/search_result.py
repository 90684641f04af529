"""Search results: the measures of all scored architectures, ranks, fitness, costs and the Pareto front."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from datafree.nas.space import Genotype, Space

Key = TypeVar("Key")
Measures = dict[str, float]  # measured values of one architecture by name


@dataclass(frozen=True)
class SearchResult:
    """The result of any algorithm: the best architecture, the measures of every scored one in order, the history, further metrics."""

    best: Genotype
    measures: dict[Genotype, Measures]
    history: list[dict[str, float]]  # rows with a ``step``
    facts: dict[str, float] = field(default_factory=dict)


class MeasureTable(dict[Genotype, Measures]):
    """Measures by architecture in the order of scoring, with a state dict for checkpoints."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def state_dict(self) -> dict[str, Any]:
        return {self.space.encode(genotype): dict(measures) for genotype, measures in self.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.clear()
        self.update({self.space.decode(text): dict(measures) for text, measures in state_dict.items()})


# What a search maximises: a value for each of the architectures measured so far; it may depend on the others.
Fitness = Callable[[Mapping[Genotype, Measures]], dict[Genotype, float]]


def negative_kl(measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The negative KL divergence from the teachers.

    It ranks cells more like their stand-alone accuracy does than agreement with the teachers, which is equal for many cells.
    """
    return {genotype: -measured["kl"] for genotype, measured in measures.items()}


def relative_rank(values: Mapping[Key, float]) -> dict[Key, float]:
    """The rank of each value divided by their number, in (0, 1]: 1 = the largest. Equal values share their mean rank."""
    ordered = sorted(values.values())  # scipy.stats has ranks too, but takes a second to import
    return {key: (bisect_left(ordered, value) + bisect_right(ordered, value) + 1) / 2 / len(values) for key, value in values.items()}


def mean_rank(*values: Mapping[Key, float]) -> dict[Key, float]:
    """The mean of each key's relative ranks in several mappings, which have the same keys."""
    ranks = [relative_rank(mapping) for mapping in values]
    return {key: sum(rank[key] for rank in ranks) / len(ranks) for key in ranks[0]}


def best_of(measures: Mapping[Genotype, Measures], fitness: Fitness) -> Genotype:
    """The architecture with the largest fitness; the first of equal ones."""
    values = fitness(measures)
    return max(values, key=values.__getitem__)


@dataclass(frozen=True)
class Cost:
    """A cost of architectures: its name, the label of an axis, its unit, and the divisor that converts raw values to this unit."""

    name: str
    label: str
    unit: str
    divisor: float


MACS = Cost("multiply-adds", "multiply-adds for one image, millions", "M", 1e6)
LATENCY = Cost("latency", "milliseconds for one image", "ms", 1.0)
COSTS = {"macs": MACS, "latency": LATENCY}  # by column of the candidates table; the latency column is optional


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The Pareto-optimal (cost, value) pairs, lower cost and higher value being better, in order of rising cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
