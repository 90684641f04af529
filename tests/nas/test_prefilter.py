from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from datafree.checkpoints import Checkpoint
from datafree.config import RandomConfig, SposConfig
from datafree.devices import derive_seed
from datafree.nas import prefilter, random_search, spos
from datafree.nas.candidates import Candidates, Limit
from datafree.nas.prefilter import Prior
from datafree.nas.proxy_scores import proxy_measures, proxy_scores
from datafree.nas.search_result import MeasureTable, mean_rank, negative_kl
from datafree.nas.spaces.mbconv.space import MbconvSpace
from datafree.nas.spaces.nasbench201.space import NasBench201Space

SPACE = NasBench201Space(4, 1, 16)
CONFIG = SposConfig(channels=4, cells=1, batch_size=8, prefilter=10, prefilter_share=0.3, prior="az_nas")


@pytest.fixture
def small(small):
    return replace(small, prefilter=10, prefilter_share=0.4, prior="az_synflow")


def _prior(space=SPACE, proxy: str = "az_nas") -> Prior:
    return Prior(proxy, MeasureTable(space), 3, 0, "cpu")


def test_the_candidates_with_the_best_proxy_scores_are_kept():
    everything = Candidates(SPACE, [])
    kept = prefilter.prefilter(everything, _prior(), CONFIG, 0)
    sampled = everything.sample_distinct(set(), 10, Random(derive_seed(0, "screening")))
    values = proxy_scores("az_nas", SPACE, {cell: proxy_measures("az_nas", SPACE, cell, 3, prefilter.IMAGES, 0, "cpu") for cell in sampled})
    assert kept.listed == sorted(sampled, key=values.__getitem__, reverse=True)[:3]
    assert all(cell in kept for cell in kept.listed)
    assert not any(cell in kept for cell in sampled if cell not in kept.listed)
    assert {kept.sample(Random(seed)) for seed in range(50)} == set(kept.listed)
    assert len(everything.listed) > 9000


def test_the_prefilter_does_not_depend_on_earlier_measurements():
    everything, prior = Candidates(SPACE, []), _prior()
    prior.scores(everything.listed[:4])
    assert prefilter.prefilter(everything, prior, CONFIG, 0).listed == prefilter.prefilter(everything, _prior(), CONFIG, 0).listed


def test_the_prefilter_respects_limits_and_keeps_at_least_one():
    limit = Limit("key", SPACE.macs(SPACE.cheapest()) + 20_000, SPACE.macs)
    kept = prefilter.prefilter(Candidates(SPACE, [limit]), _prior(), replace(CONFIG, prefilter_share=0.01), 0)
    assert len(kept.listed) == 1
    assert SPACE.macs(kept.listed[0]) <= limit.value


def test_a_space_too_large_to_enumerate_is_prefiltered():
    space = MbconvSpace(8, 1, 16)
    kept = prefilter.prefilter(Candidates(space, []), _prior(space, "az_synflow"), CONFIG, 0)
    assert len(kept.listed) == 3


def test_only_kept_candidates_are_trained_and_scored(joined, small, recorded_paths):
    result = spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    assert len(result.measures) == 4  # all kept candidates
    assert {path for path, _, _ in recorded_paths} == set(result.measures)
    assert result.best in result.measures


@pytest.mark.parametrize("prefiltered", [0, 10])
def test_with_a_prior_the_result_has_the_best_mean_rank(joined, small, prefiltered):
    small = replace(small, prefilter=prefiltered)
    result = spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    proxies = {cell: proxy_measures("az_synflow", SPACE, cell, max(joined.classes), prefilter.IMAGES, 0, "cpu") for cell in result.measures}
    expected = mean_rank(negative_kl(result.measures), proxy_scores("az_synflow", SPACE, proxies))
    assert {cell: measures["score"] for cell, measures in result.measures.items()} == expected
    assert result.best == max(expected, key=expected.__getitem__)


def test_a_prior_without_prefilter_changes_neither_the_supernet_nor_its_scores(joined, small):
    small = replace(small, prefilter=0, generations=1)
    with_prior, without = (
        spos.search(SPACE, joined, replace(small, prior=prior), "nas.algorithms.mine", 0, "cpu", Checkpoint(None)) for prior in ("zen", "")
    )
    by_supernet = {
        cell: {key: value for key, value in measures.items() if key != "score"} for cell, measures in with_prior.measures.items()
    }
    assert by_supernet == without.measures


def test_random_search_with_a_prior_returns_the_best_mean_rank(joined, small):
    config = RandomConfig(channels=4, supernet_steps=3, batch_size=8, candidates=5, validation=0.2, prior="synflow")
    result = random_search.search(SPACE, joined, config, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    scores = [measures["score"] for measures in result.measures.values()]
    assert result.measures[result.best]["score"] == max(scores) <= 1


def test_a_killed_search_resumes_to_the_same_result_and_prefilters_once(joined, small, interrupted, monkeypatch):
    def search(checkpoint):
        return spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", checkpoint)

    expected, measured = search(Checkpoint(None)), []
    original = prefilter.proxy_measures
    monkeypatch.setattr(prefilter, "proxy_measures", lambda *given: measured.append(1) or original(*given))
    assert interrupted(search, deaths=[5, 7, 4], every=2) == expected
    assert len(measured) == 10
