"""Candidates of a search: the useful architectures of a space within limits on multiply-adds, parameters and latency. Pure Python."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from datafree.config import LimitedConfig
from datafree.errors import UserError
from datafree.nas.space import Genotype, Space

LARGEST_LIST = 50_000  # larger spaces are sampled, not enumerated
TRIES = 50  # samples of a larger space; if all are beyond a limit, the last one is made cheaper group by group


@dataclass(frozen=True)
class Limit:
    """The largest allowed ``cost``; ``key`` is its dotted configuration key, for error messages."""

    key: str
    value: float
    cost: Callable[[Genotype], float]


def limits_of(config: LimitedConfig, key: str, space: Space, latency: Callable[[Genotype], float]) -> list[Limit]:
    """The limits that are set; ``key`` is the algorithm's dotted configuration key, ``latency`` gives an architecture's milliseconds."""
    costs = {"max_macs": space.macs, "max_parameters": space.parameters, "max_latency": latency}
    return [Limit(f"{key}.{name}", getattr(config, name), cost) for name, cost in costs.items() if getattr(config, name)]


class Candidates:
    """Membership, uniform sampling and, where the space is small enough, the list of all candidates (``listed``).

    Raises:
        UserError: no architecture is within the limits; in a large space only the cheapest architecture is checked.
    """

    def __init__(self, space: Space, limits: Sequence[Limit]) -> None:
        self.space, self.limits = space, limits
        small = space.count() <= LARGEST_LIST
        useful = [genotype for genotype in space.enumerate() if space.is_useful(genotype)] if small else [space.cheapest()]
        within = useful
        for limit in limits:
            costs = {genotype: limit.cost(genotype) for genotype in within}
            within = [genotype for genotype, cost in costs.items() if cost <= limit.value]
            if not within:
                others = " within the other limits" if len(costs) < len(useful) else ""
                raise UserError(
                    f"{limit.key}: got {limit.value}, but the cheapest architecture{others} needs {_number(min(costs.values()))}; "
                    "raise the limit, or lower `channels`"
                )
        self.listed: list[Genotype] | None = within if small else None
        self._members = set(within) if small else None

    def subset(self, genotypes: Sequence[Genotype]) -> Candidates:
        """The same candidates reduced to ``genotypes``."""
        subset = copy.copy(self)
        subset.listed, subset._members = list(genotypes), set(genotypes)
        return subset

    def __contains__(self, genotype: Genotype) -> bool:
        if self._members is not None:
            return genotype in self._members
        return self.space.is_useful(genotype) and all(limit.cost(genotype) <= limit.value for limit in self.limits)

    def sample(self, random: Random) -> Genotype:
        """A random candidate, uniform over all.

        If ``TRIES`` samples of a large space are all beyond a limit, groups of the last sample's slots are replaced by those of the
        cheapest architecture until it is within the limits.
        """
        if self.listed is not None:
            return random.choice(self.listed)
        sampled = self.space.sample(random)
        for _ in range(TRIES):
            if sampled in self:
                return sampled
            sampled = self.space.sample(random)
        chosen, cheapest = list(sampled), self.space.cheapest()
        for group in random.sample(self.space.groups, len(self.space.groups)):
            for slot in group:
                chosen[slot] = cheapest[slot]
            if tuple(chosen) in self:
                break
        return tuple(chosen)

    def sample_distinct(self, excluded: set[Genotype], count: int, random: Random) -> list[Genotype]:
        """Up to ``count`` different random candidates, none of them in ``excluded``."""
        if self.listed is not None:
            rest = [genotype for genotype in self.listed if genotype not in excluded]
            return random.sample(rest, min(count, len(rest)))
        distinct: dict[Genotype, None] = {}
        for _ in range(TRIES * count):
            if len(distinct) == count:
                break
            genotype = self.sample(random)
            if genotype not in excluded:
                distinct[genotype] = None
        return list(distinct)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
