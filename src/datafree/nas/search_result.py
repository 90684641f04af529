"""What a search hands back, whatever its algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from scipy.stats import rankdata

from datafree.nas.spaces import Genotype, Space

Key = TypeVar("Key")
Measures = dict[str, float]  # of one architecture, by name


@dataclass(frozen=True)
class SearchResult:
    """The architecture, the measures of every scored one in the order of scoring, the course of the search, and further numbers."""

    best: Genotype
    measures: dict[Genotype, Measures]
    history: list[dict[str, float]]  # rows with a ``step``
    facts: dict[str, float] = field(default_factory=dict)


class MeasureTable(dict[Genotype, Measures]):
    """Measured architectures in order, as a checkpoint can keep them."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def state_dict(self) -> dict[str, Any]:
        return {self.space.encode(genotype): dict(measures) for genotype, measures in self.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.clear()
        self.update({self.space.decode(text): dict(measures) for text, measures in state_dict.items()})


# What a search maximises: a value of each of the architectures measured so far, which may depend on the others.
Fitness = Callable[[Mapping[Genotype, Measures]], dict[Genotype, float]]


def closeness(measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The divergence from the teachers, negated.

    It orders cells more like their stand-alone training does than agreement, of which many cells share a value.
    """
    return {genotype: -found["kl"] for genotype, found in measures.items()}


def relative_rank(values: Mapping[Key, float]) -> dict[Key, float]:
    """The rank of each value divided by their number: above 0, 1 = the largest. Equal values share the mean of their ranks."""
    return dict(zip(values, (rankdata(list(values.values())) / len(values)).tolist(), strict=True)) if values else {}


def mean_rank(*values: Mapping[Key, float]) -> dict[Key, float]:
    """The mean over ``values``, which have the same keys, of a key's relative rank in each."""
    ranks = [relative_rank(one) for one in values]
    return {key: sum(rank[key] for rank in ranks) / len(ranks) for key in ranks[0]}


def best_of(measures: Mapping[Genotype, Measures], fitness: Fitness) -> Genotype:
    """The architecture of the largest fitness; of several the first."""
    values = fitness(measures)
    return max(values, key=values.__getitem__)


@dataclass(frozen=True)
class Cost:
    """What a candidate architecture costs: its name, an axis's label, the unit of a value, and how many raw units make one of these."""

    name: str
    label: str
    unit: str
    divisor: float


MACS = Cost("multiply-adds", "multiply-adds for one image, millions", "M", 1e6)
LATENCY = Cost("latency", "milliseconds for one image", "ms", 1.0)
COSTS = {"macs": MACS, "latency": LATENCY}  # by the column of a table of candidates; latency is there where it was measured


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (cost, value) that no other point beats in one without losing in the other, by rising cost."""
    front: list[tuple[float, float]] = []
    for cost, value in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or value > front[-1][1]:
            front.append((cost, value))
    return front
