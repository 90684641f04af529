from __future__ import annotations

from random import Random

import pytest

from datafree.config import SposConfig
from datafree.errors import UserError
from datafree.nas.candidates import Candidates, Limit, limits_of
from datafree.nas.spaces.nasbench201 import space as nasbench201
from datafree.nas.spaces.nasbench201.space import NasBench201Space

SPACE = NasBench201Space(16, 1, 32)
SMALLEST = SPACE.macs(SPACE.cheapest())


def _macs(value: int) -> Limit:
    return Limit("nas.algorithms.mine.max_macs", value, SPACE.macs)


def test_candidates_are_the_useful_cells_within_the_limit():
    candidates = Candidates(SPACE, [_macs(15_000_000)])
    for genotype in SPACE.enumerate():
        useful = nasbench201.is_connected(genotype) and nasbench201.trim(genotype) == genotype
        assert (genotype in candidates) == (useful and SPACE.macs(genotype) <= 15_000_000)
    assert all(candidates.sample(Random(seed)) in candidates for seed in range(50))


def test_a_limit_at_the_smallest_cost_is_accepted_and_one_below_is_refused():
    assert {SPACE.macs(genotype) for genotype in Candidates(SPACE, [_macs(SMALLEST)]).listed} == {SMALLEST}
    with pytest.raises(
        UserError, match=rf"nas.algorithms.mine.max_macs: got {SMALLEST - 1}, but the cheapest architecture needs {SMALLEST};"
    ):
        Candidates(SPACE, [_macs(SMALLEST - 1)])


def test_limits_that_exclude_each_other_are_refused():
    # The second limit is below the cost of every cell within the first.
    second = Limit("key.max_latency", 1.0, lambda genotype: 0.5 if "nor_conv_3x3" in genotype else 2.0)
    with pytest.raises(UserError, match="key.max_latency: got 1.0, but the cheapest architecture within the other limits needs 2"):
        Candidates(SPACE, [_macs(SMALLEST), second])


def test_limits_that_are_not_set_are_ignored():
    config = SposConfig(max_macs=0, max_parameters=50_000, max_latency=0.5)
    limits = limits_of(config, "nas.algorithms.mine", SPACE, lambda genotype: 0.25)
    assert [limit.key for limit in limits] == ["nas.algorithms.mine.max_parameters", "nas.algorithms.mine.max_latency"]
    genotype = SPACE.cheapest()
    assert [limit.cost(genotype) for limit in limits] == [SPACE.parameters(genotype), 0.25]


def test_distinct_samples_differ_and_exclude_the_given_ones():
    few = Candidates(SPACE, [_macs(SMALLEST)])
    excluded = set(few.listed[:10])
    sampled = few.sample_distinct(excluded, 10**6, Random(0))
    assert len(sampled) == len(set(sampled)) == len(few.listed) - 10
    assert not excluded & set(sampled)
