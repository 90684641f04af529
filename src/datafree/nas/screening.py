"""Which architectures are worth a place in the supernet, told from their untrained networks.

Paths share weights, so one that cannot learn costs the others: supernets trained on promising paths alone rank better (GreedyNAS, You et
al., CVPR 2020, finds such paths during the training; here AZ-NAS names them before it, without an image).
"""

from __future__ import annotations

from random import Random

import torch

from datafree.config import OneShotConfig
from datafree.devices import derive_seed
from datafree.nas.candidates import Candidates
from datafree.nas.found import MeasureTable
from datafree.nas.zero_cost import standings, untrained
from datafree.progress import progress

SCORE = "az_nas"


def screen(
    candidates: Candidates, classes: int, config: OneShotConfig, seed: int, device: torch.device | str, known: MeasureTable
) -> Candidates:
    """The best ``config.kept`` of ``config.screened`` random candidates by their untrained networks; all candidates if that is 0.

    ``known`` receives what was measured of each; a table that has it, as a resumed search's, is not measured again.
    """
    if not config.screened:
        return candidates
    if not known:
        drawn = candidates.others(set(), config.screened, Random(derive_seed(seed, "screening")))
        found = {
            genotype: untrained(SCORE, candidates.space, genotype, classes, config.batch_size, seed, device)
            for genotype in progress(drawn, len(drawn), "screening")
        }
        known.update(found)
    values = standings(SCORE, candidates.space, known)
    best = sorted(values, key=values.__getitem__, reverse=True)
    return candidates.only(best[: max(1, round(config.kept * len(best)))])
