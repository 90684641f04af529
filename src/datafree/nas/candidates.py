"""The architectures that a search may choose: the useful ones within its limits. Pure Python."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from datafree.config import LimitedConfig
from datafree.errors import UserError
from datafree.nas.spaces import Genotype, Space

LARGEST_LIST = 50_000  # architectures of a space that are looked at one by one
TRIES = 50  # draws from a larger space before one that is too dear is made cheaper step by step


@dataclass(frozen=True)
class Limit:
    """The largest allowed ``cost``; ``key`` is its dotted configuration key, for messages."""

    key: str
    value: float
    cost: Callable[[Genotype], float]


def limits_of(config: LimitedConfig, key: str, space: Space, latency: Callable[[Genotype], float]) -> list[Limit]:
    """The limits that are set; ``key`` is the dotted key of the algorithm, ``latency`` an architecture's milliseconds."""
    costs = {"max_macs": space.macs, "max_parameters": space.parameters, "max_latency": latency}
    return [Limit(f"{key}.{name}", getattr(config, name), cost) for name, cost in costs.items() if getattr(config, name)]


class Candidates:
    """Membership, uniform draws, and the whole list where the space is small enough.

    Raises:
        UserError: no architecture is within the limits. Of a large space the cheapest one has to be.
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
                beside = " within the other limits" if len(costs) < len(useful) else ""
                raise UserError(
                    f"{limit.key}: got {limit.value}, but the cheapest architecture{beside} needs {_number(min(costs.values()))}; "
                    "raise the limit, or lower `channels`"
                )
        self.listed: list[Genotype] | None = within if small else None
        self._members = set(within) if small else None

    def only(self, chosen: Sequence[Genotype]) -> Candidates:
        """These of them alone."""
        fewer = copy.copy(self)
        fewer.listed, fewer._members = list(chosen), set(chosen)
        return fewer

    def __contains__(self, genotype: Genotype) -> bool:
        if self._members is not None:
            return genotype in self._members
        return self.space.is_useful(genotype) and all(limit.cost(genotype) <= limit.value for limit in self.limits)

    def sample(self, random: Random) -> Genotype:
        """Uniform; of a large space whose draws are all too dear, one on the way from a draw to the cheapest architecture."""
        if self.listed is not None:
            return random.choice(self.listed)
        drawn = self.space.sample(random)
        for _ in range(TRIES):
            if drawn in self:
                return drawn
            drawn = self.space.sample(random)
        chosen, cheapest = list(drawn), self.space.cheapest()
        for group in random.sample(self.space.groups, len(self.space.groups)):
            for slot in group:
                chosen[slot] = cheapest[slot]
            if tuple(chosen) in self:
                break
        return tuple(chosen)

    def others(self, known: set[Genotype], count: int, random: Random) -> list[Genotype]:
        """Up to ``count`` different ones that are not ``known``."""
        if self.listed is not None:
            rest = [genotype for genotype in self.listed if genotype not in known]
            return random.sample(rest, min(count, len(rest)))
        found: dict[Genotype, None] = {}
        for _ in range(TRIES * count):
            if len(found) == count:
                break
            drawn = self.sample(random)
            if drawn not in known:
                found[drawn] = None
        return list(found)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4g}"
