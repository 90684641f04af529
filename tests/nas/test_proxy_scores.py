from __future__ import annotations

import math
from random import Random

import pytest
import torch

from datafree.config import PROXIES
from datafree.nas import proxies
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.spaces.nasbench201.space import NasBench201Space

SPACE = NasBench201Space(4, 1, 16)
DENSE = ("nor_conv_3x3",) * 6


def random_cells(count: int) -> list:
    random = Random(3)
    return [SPACE.sample(random) for _ in range(count)]


def test_zen_is_larger_for_a_deeper_network():
    scores = [proxy_measures("zen", SPACE, genotype, 3, 6, 0, "cpu") for genotype in (SPACE.cheapest(), DENSE)]
    assert scores[0]["score"] < scores[1]["score"]


@pytest.mark.parametrize("name", PROXIES)
def test_scores_are_finite_and_repeatable_and_leave_the_global_random_state(name):
    state = torch.get_rng_state()
    first, second = (proxy_measures(name, SPACE, DENSE, 3, 6, 0, "cpu") for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)
    empty = ("none",) * 6
    second = proxy_measures(name, SPACE, empty, 3, 6, 0, "cpu")
    assert all(map(math.isfinite, [*first.values(), *second.values()]))
    scores = proxy_scores(name, SPACE, {DENSE: first, empty: second})
    assert list(scores) == [DENSE, empty]
    assert all(map(math.isfinite, scores.values()))


def test_multiply_adds_and_parameters_are_proxies():
    assert proxy_measures("macs", SPACE, DENSE, 3, 6, 0, "cpu") == {"score": SPACE.macs(DENSE)}
    assert proxy_measures("parameters", SPACE, DENSE, 3, 6, 0, "cpu") == {"score": SPACE.parameters(DENSE)}
    assert set(proxies.PROXIES) | {"macs", "parameters"} == set(PROXIES)


def test_az_synflow_is_the_mean_rank_of_its_two_proxies():
    cells = random_cells(6)
    measures = {
        name: {cell: proxy_measures(name, SPACE, cell, 3, 6, 0, "cpu") for cell in cells} for name in ("az_nas", "synflow", "az_synflow")
    }
    values = {name: list(proxy_scores(name, SPACE, measures[name]).values()) for name in measures}
    ranks = [[sum(other <= value for other in values[name]) for value in values[name]] for name in ("az_nas", "synflow")]
    assert len(set(map(tuple, ranks))) == 2  # the two rankings differ; neither has ties
    assert values["az_synflow"] == pytest.approx([(a + b) / 12 for a, b in zip(*ranks, strict=True)])
