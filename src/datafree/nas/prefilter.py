"""What untrained networks tell of architectures before and beside a supernet.

Paths share weights, so one that cannot learn costs the others: supernets trained on promising paths alone rank better (GreedyNAS, You et
al., CVPR 2020, finds such paths during the training; here a score of untrained networks names them before it, without an image).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import torch

from datafree.config import OneShotConfig
from datafree.devices import derive_seed
from datafree.nas.candidates import Candidates
from datafree.nas.search_result import MeasureTable
from datafree.nas.spaces import Genotype
from datafree.nas.zero_cost import standings, untrained
from datafree.progress import progress

# Of noise, on which an untrained network is looked at: with as many, AZ-NAS ranks the cells of NAS-Bench-201 by a tau of .65 to .71.
IMAGES = 16


@dataclass(frozen=True)
class Prior:
    """A score of untrained networks, one of ``datafree.config.PROXIES``. ``known`` keeps what was found in each of them."""

    score: str
    known: MeasureTable
    classes: int
    seed: int
    device: torch.device | str

    def standings(self, genotypes: Iterable[Genotype]) -> dict[Genotype, float]:
        """The score of each; it may depend on which others there are. None is measured twice."""
        space, found = self.known.space, {}
        for genotype in genotypes:
            if genotype not in self.known:
                self.known[genotype] = untrained(self.score, space, genotype, self.classes, IMAGES, self.seed, self.device)
            found[genotype] = self.known[genotype]
        return standings(self.score, space, found)


def screen(candidates: Candidates, prior: Prior, config: OneShotConfig, seed: int) -> Candidates:
    """The best ``config.prefilter_share`` of ``config.prefilter`` random candidates by ``prior``."""
    drawn = candidates.others(set(), config.prefilter, Random(derive_seed(seed, "screening")))
    values = prior.standings(progress(drawn, len(drawn), "screening"))
    best = sorted(values, key=values.__getitem__, reverse=True)
    return candidates.only(best[: max(1, round(config.prefilter_share * len(best)))])
