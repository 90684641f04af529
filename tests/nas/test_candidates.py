from __future__ import annotations

from random import Random

import pytest

from datafree.config import SposConfig
from datafree.errors import UserError
from datafree.nas.candidates import Candidates, Limit, limits_of
from datafree.nas.spaces import nasbench201
from datafree.nas.spaces.nasbench201 import NasBench201Space

SPACE = NasBench201Space(16, 1, 32)
SMALLEST = SPACE.macs(SPACE.cheapest())


def _macs(value: int) -> Limit:
    return Limit("nas.algorithms.mine.max_macs", value, SPACE.macs)


def test_candidates_are_the_useful_cells_within_the_limit():
    found = Candidates(SPACE, [_macs(15_000_000)])
    for genotype in SPACE.enumerate():
        useful = nasbench201.is_connected(genotype) and nasbench201.trim(genotype) == genotype
        assert (genotype in found) == (useful and SPACE.macs(genotype) <= 15_000_000)
    assert all(found.sample(Random(seed)) in found for seed in range(50))


def test_a_limit_at_the_smallest_cost_is_met_and_one_below_is_refused():
    assert {SPACE.macs(genotype) for genotype in Candidates(SPACE, [_macs(SMALLEST)]).listed} == {SMALLEST}
    with pytest.raises(
        UserError, match=rf"nas.algorithms.mine.max_macs: got {SMALLEST - 1}, but the cheapest architecture needs {SMALLEST};"
    ):
        Candidates(SPACE, [_macs(SMALLEST - 1)])


def test_limits_that_exclude_each_other_are_refused():
    # A limit below the cost of whatever the first leaves.
    second = Limit("key.max_latency", 1.0, lambda genotype: 0.5 if "nor_conv_3x3" in genotype else 2.0)
    with pytest.raises(UserError, match="key.max_latency: got 1.0, but the cheapest architecture within the other limits needs 2"):
        Candidates(SPACE, [_macs(SMALLEST), second])


def test_only_limits_that_are_set_count():
    config = SposConfig(max_macs=0, max_parameters=50_000, max_latency=0.5)
    limits = limits_of(config, "nas.algorithms.mine", SPACE, lambda genotype: 0.25)
    assert [limit.key for limit in limits] == ["nas.algorithms.mine.max_parameters", "nas.algorithms.mine.max_latency"]
    genotype = SPACE.cheapest()
    assert [limit.cost(genotype) for limit in limits] == [SPACE.parameters(genotype), 0.25]


def test_others_are_new_and_different():
    few = Candidates(SPACE, [_macs(SMALLEST)])
    known = set(few.listed[:10])
    found = few.others(known, 10**6, Random(0))
    assert len(found) == len(set(found)) == len(few.listed) - 10
    assert not known & set(found)
