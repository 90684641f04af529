"""Zero-cost proxies in a supernet search: as a prior for the ranking, and as a pre-filter of the candidates before training.

Paths share weights, so training poor architectures harms the good ones: a supernet trained only on promising paths ranks better.
GreedyNAS (You et al., CVPR 2020) finds such paths during the training; here a zero-cost proxy selects them before it, without images.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random

import torch

from datafree.config import OneShotConfig
from datafree.devices import derive_seed
from datafree.nas.candidates import Candidates
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.search_result import MeasureTable
from datafree.nas.space import Genotype
from datafree.progress import progress

# Noise images per untrained network: with 16, AZ-NAS ranks the cells of NAS-Bench-201 with a Kendall tau of .65 to .71.
IMAGES = 16


@dataclass(frozen=True)
class Prior:
    """A zero-cost proxy, one of ``datafree.config.PROXIES``; ``measured`` holds what was measured on each untrained network."""

    proxy: str
    measured: MeasureTable
    classes: int
    seed: int
    device: torch.device | str

    def scores(self, genotypes: Iterable[Genotype]) -> dict[Genotype, float]:
        """The proxy score of each architecture; it may depend on the others. No network is measured twice."""
        space, measures = self.measured.space, {}
        for genotype in genotypes:
            if genotype not in self.measured:
                self.measured[genotype] = proxy_measures(self.proxy, space, genotype, self.classes, IMAGES, self.seed, self.device)
            measures[genotype] = self.measured[genotype]
        return proxy_scores(self.proxy, space, measures)


def prefilter(candidates: Candidates, prior: Prior, config: OneShotConfig, seed: int) -> Candidates:
    """Sample ``config.prefilter`` random candidates; keep the best ``config.prefilter_share`` by the prior's score, at least one."""
    sampled = candidates.sample_distinct(set(), config.prefilter, Random(derive_seed(seed, "screening")))
    values = prior.scores(progress(sampled, len(sampled), "pre-filter"))
    best = sorted(values, key=values.__getitem__, reverse=True)
    return candidates.subset(best[: max(1, round(config.prefilter_share * len(best)))])
