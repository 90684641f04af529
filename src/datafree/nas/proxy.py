"""A zero-cost proxy: what is measured on an untrained network, and the scores that architectures have by it. Larger is better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from datafree.nas.search_result import Measures
from datafree.nas.space import Genotype, Space
from datafree.zoo.backbones import Classifier


@dataclass(frozen=True)
class Proxy:
    """``measure(network, images, seed)`` are the measurements of one network, a ``Classifier`` with a ``BlockBackbone``, on noise images
    float [B, C, H, W]; it may change the network's weights. ``scores(space, measures)`` is the score of each architecture from the
    measurements of all; it may depend on the others.
    """

    measure: Callable[[Classifier, Tensor, int], Measures]
    scores: Callable[[Space, Mapping[Genotype, Measures]], dict[Genotype, float]]


def score_by_network(score: Callable[[Classifier, Tensor, int], float]) -> Proxy:
    """The proxy whose score of an architecture is ``score(network, images, seed)``, whatever the others are."""
    return Proxy(lambda network, images, seed: {"score": score(network, images, seed)}, lambda space, measures: measured_scores(measures))


def measured_scores(measures: Mapping[Genotype, Measures]) -> dict[Genotype, float]:
    """The measured ``score`` of each architecture."""
    return {genotype: measured["score"] for genotype, measured in measures.items()}
