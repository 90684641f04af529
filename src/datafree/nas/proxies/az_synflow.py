"""AZ-NAS and synflow combined: AZ-NAS separates bad architectures from good ones, synflow orders the good ones."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from datafree.nas.proxies import az_nas
from datafree.nas.proxies.synflow import synflow
from datafree.nas.proxy import Proxy
from datafree.nas.search_result import Measures, mean_rank
from datafree.nas.space import Genotype, Space
from datafree.zoo.backbones import Classifier


def measure(network: Classifier, images: Tensor, seed: int) -> Measures:
    """``synflow`` and the components of AZ-NAS; changes the weights, see ``az_nas.components``."""
    return {"synflow": synflow(network, images, seed)} | az_nas.measure(network, images, seed)  # AZ-NAS last: it changes the weights


def scores(space: Space, measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The mean of the ranks by AZ-NAS and by synflow."""
    by_synflow = {genotype: measured["synflow"] for genotype, measured in measures.items()}
    return mean_rank(az_nas.scores(space, measures), by_synflow)


PROXY = Proxy(measure, scores)
