from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from datafree.checkpoints import Checkpoint
from datafree.config import RandomConfig, SposConfig
from datafree.devices import derive_seed
from datafree.nas import one_shot, prefilter, random_search, spos
from datafree.nas.candidates import Candidates, Limit
from datafree.nas.prefilter import Prior
from datafree.nas.search_result import MeasureTable, closeness, mean_rank
from datafree.nas.spaces.mbconv import MbconvSpace
from datafree.nas.spaces.nasbench201 import NasBench201Space
from datafree.nas.zero_cost import standings, untrained

SPACE = NasBench201Space(4, 1, 16)
CONFIG = SposConfig(channels=4, cells=1, batch_size=8, prefilter=10, prefilter_share=0.3, prior="az_nas")


@pytest.fixture
def small(small):
    return replace(small, prefilter=10, prefilter_share=0.4, prior="az_synflow")


def _prior(space=SPACE, score: str = "az_nas") -> Prior:
    return Prior(score, MeasureTable(space), 3, 0, "cpu")


def test_the_best_of_a_draw_by_their_untrained_networks_stay():
    everything = Candidates(SPACE, [])
    found = prefilter.screen(everything, _prior(), CONFIG, 0)
    drawn = everything.others(set(), 10, Random(derive_seed(0, "screening")))
    values = standings("az_nas", SPACE, {cell: untrained("az_nas", SPACE, cell, 3, prefilter.IMAGES, 0, "cpu") for cell in drawn})
    assert found.listed == sorted(drawn, key=values.__getitem__, reverse=True)[:3]
    assert all(cell in found for cell in found.listed)
    assert not any(cell in found for cell in drawn if cell not in found.listed)
    assert {found.sample(Random(seed)) for seed in range(50)} == set(found.listed)
    assert len(everything.listed) > 9000


def test_which_stay_does_not_depend_on_what_else_was_measured():
    everything, prior = Candidates(SPACE, []), _prior()
    prior.standings(everything.listed[:4])
    assert prefilter.screen(everything, prior, CONFIG, 0).listed == prefilter.screen(everything, _prior(), CONFIG, 0).listed


def test_screening_keeps_to_the_limits_and_at_least_one():
    limit = Limit("key", SPACE.macs(SPACE.cheapest()) + 20_000, SPACE.macs)
    found = prefilter.screen(Candidates(SPACE, [limit]), _prior(), replace(CONFIG, prefilter_share=0.01), 0)
    assert len(found.listed) == 1
    assert SPACE.macs(found.listed[0]) <= limit.value


def test_a_space_too_large_to_list_is_screened_too():
    space = MbconvSpace(8, 1, 16)
    found = prefilter.screen(Candidates(space, []), _prior(space, "az_synflow"), CONFIG, 0)
    assert len(found.listed) == 3


def test_only_what_was_kept_is_trained_and_chosen(joined, small, monkeypatch):
    paths = []
    original = one_shot.new_supernet

    def new_supernet(*given):
        supernet = original(*given)
        forward = supernet.forward
        monkeypatch.setattr(supernet, "forward", lambda images, path, teacher: paths.append(path) or forward(images, path, teacher))
        return supernet

    monkeypatch.setattr(one_shot, "new_supernet", new_supernet)
    found = spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    assert len(found.measures) == 4  # every one of them
    assert set(Counter(paths)) == set(found.measures)
    assert found.best in found.measures


@pytest.mark.parametrize("prefiltered", [0, 10])
def test_with_a_prior_the_first_by_both_ranks_is_found(joined, small, prefiltered):
    small = replace(small, prefilter=prefiltered)
    found = spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    known = {cell: untrained("az_synflow", SPACE, cell, max(joined.classes), prefilter.IMAGES, 0, "cpu") for cell in found.measures}
    expected = mean_rank(closeness(found.measures), standings("az_synflow", SPACE, known))
    assert {cell: one["score"] for cell, one in found.measures.items()} == expected
    assert found.best == max(expected, key=expected.__getitem__)


def test_a_prior_alone_changes_neither_the_supernet_nor_its_scores(joined, small):
    small = replace(small, prefilter=0, generations=1)
    both = [spos.search(SPACE, joined, replace(small, prior=one), "nas.algorithms.mine", 0, "cpu", Checkpoint(None)) for one in ("zen", "")]
    without = {cell: {key: value for key, value in one.items() if key != "score"} for cell, one in both[0].measures.items()}
    assert without == both[1].measures


def test_random_search_takes_the_first_by_both_ranks(joined, small):
    config = RandomConfig(channels=4, supernet_steps=3, batch_size=8, candidates=5, validation=0.2, prior="synflow")
    found = random_search.search(SPACE, joined, config, "nas.algorithms.mine", 0, "cpu", Checkpoint(None))
    assert found.measures[found.best]["score"] == max(one["score"] for one in found.measures.values())
    assert max(one["score"] for one in found.measures.values()) <= 1


def test_a_search_killed_anywhere_resumes_to_the_same_result_and_screens_once(joined, small, interrupted, monkeypatch):
    def search(checkpoint):
        return spos.search(SPACE, joined, small, "nas.algorithms.mine", 0, "cpu", checkpoint)

    expected, measured = search(Checkpoint(None)), []
    original = prefilter.untrained
    monkeypatch.setattr(prefilter, "untrained", lambda *given: measured.append(1) or original(*given))
    assert interrupted(search, deaths=[5, 7, 4], every=2) == expected
    assert len(measured) == 10
