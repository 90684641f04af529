from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.errors import UserError
from datafree.nas import one_shot, spaces, spos
from datafree.nas.search_result import SearchResult


def _search(pools, config: SposConfig, checkpoint: Checkpoint | None = None, seed: int = 0) -> SearchResult:
    space = spaces.of(config, pools.image_size, pools.image_channels)
    return spos.search(space, pools, config, "nas.algorithms.mine", seed, "cpu", checkpoint or Checkpoint(None))


def test_a_search_respects_the_limit_and_reports_its_history(joined, small):
    result, space = _search(joined, small), spaces.of(small, joined.image_size)
    assert len(result.measures) == 12
    assert all(space.macs(genotype) <= small.max_macs for genotype in result.measures)
    assert result.measures[result.best]["kl"] == min(values["kl"] for values in result.measures.values())
    assert [row["step"] for row in result.history] == [1, 2, 3]
    best = [row["best_kl"] for row in result.history]
    assert best == sorted(best, reverse=True)
    assert best[-1] == result.measures[result.best]["kl"]
    assert result.history[-1]["best_macs"] == space.macs(result.best)
    assert result.facts["random_mean_kl"] == pytest.approx(result.history[0]["mean_kl"])
    assert result.facts["random_best_kl"] == result.history[0]["best_kl"]
    assert result.facts["distinct_cells_scored"] <= 12


def test_training_the_supernet_lowers_the_loss(joined, small):
    short, long = (_search(joined, replace(small, supernet_steps=steps, generations=1)) for steps in (1, 60))
    mean = [sum(values["kl"] for values in result.measures.values()) / len(result.measures) for result in (short, long)]
    assert mean[1] < 0.8 * mean[0]


def test_paths_are_sampled_uniformly_from_the_candidates(joined, small, recorded_paths):
    space = spaces.of(small, joined.image_size)
    config = replace(small, supernet_steps=200, batch_size=2, max_macs=space.macs(space.cheapest()))
    trained = one_shot.train(space, joined, config, "key", 0, "cpu", Checkpoint(None))
    # Each single cell is sampled rarely: compare the frequencies of the first edge's operation.
    edges = Counter(path[0] for path, _, _ in recorded_paths)
    expected = Counter(genotype[0] for genotype in trained.candidates.listed)
    assert {path for path, _, _ in recorded_paths} <= set(trained.candidates.listed)
    for name, count in expected.items():
        assert abs(edges[name] / 200 - count / len(trained.candidates.listed)) < 0.12


@pytest.mark.parametrize(("key", "value"), [("max_macs", 1000), ("max_parameters", 100), ("max_latency", 1e-6)])
def test_a_limit_below_every_cell_is_refused_before_any_training(joined, small, recorded_paths, key, value):
    with pytest.raises(
        UserError, match=rf"nas.algorithms.mine.{key}: got {value}, but the cheapest architecture( within the other limits)? needs"
    ):
        _search(joined, replace(small, **{key: value}))
    assert not recorded_paths


def test_a_resumed_search_uses_the_latencies_measured_before(joined, small, interrupted, monkeypatch):
    measured = []

    def measure(self, space, supernet, device):
        measured.append(1)
        self.update(
            {"fixed": {"": 1.0 * len(measured)}, **{str(slot): dict.fromkeys(options, 0.0) for slot, options in enumerate(space.choices)}}
        )

    monkeypatch.setattr(one_shot.LatencyTable, "measure", measure)
    # A second measurement would put every cell beyond the limit.
    interrupted(lambda checkpoint: _search(joined, replace(small, max_latency=1.5), checkpoint), deaths=[5], every=1)
    assert len(measured) == 1


def test_a_resumed_search_scores_no_cell_twice(joined, small, interrupted, recorded_paths):
    interrupted(lambda checkpoint: _search(joined, small, checkpoint), deaths=[18], every=1)
    scored = [path for path, _, training in recorded_paths if not training]
    # The seventh cell was scored, but the process was killed before it was saved.
    assert len(scored) == 12 + 1
    assert len(set(scored)) == 12


def test_scoring_a_candidate_takes_one_pass_over_the_held_out_images(joined, small, recorded_paths):
    result = _search(joined, replace(small, generations=1))
    _, held_out = joined.split(small.validation, 0)
    images = Counter()
    for path, count, training in recorded_paths:
        images[path] += 0 if training else count
    assert {path: count for path, count in images.items() if count} == dict.fromkeys(result.measures, len(held_out))


def test_images_of_any_size_and_channels_are_searched(joined, small):
    grey = replace(joined, images=joined.images[:, :1, :13, :13], normalise=type(joined.normalise)([0.5], [0.25]))
    result = _search(grey, replace(small, supernet_steps=2, generations=1))
    assert all(torch.isfinite(torch.tensor(list(values.values()))).all() for values in result.measures.values())
