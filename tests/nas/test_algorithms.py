"""Tests of every registered search algorithm."""

from __future__ import annotations

import functools
import itertools

import pytest

from datafree.checkpoints import Checkpoint
from datafree.config import ALGORITHM_TYPES, AlgorithmConfig, LimitedConfig, RelaxedConfig
from datafree.errors import UserError
from datafree.nas import algorithms, spaces
from datafree.nas.relaxation import Alphas
from datafree.nas.search_result import SearchResult

SIZES = {
    "supernet_steps": 8, "population": 4, "generations": 3, "parents": 2, "candidates": 6, "max_macs": 250_000, "warm_up": 0.25,
    "alpha_learning_rate": 0.5, "cost_target": 200_000.0, "auxiliary_skip": True, "second_order": True,
}  # fmt: skip


def small(method: str, **changes) -> AlgorithmConfig:
    """A search that takes a second at 16 pixels."""
    config = ALGORITHM_TYPES[method](channels=4, batch_size=16, validation=0.2, retrain_steps=12)
    for name, value in {**SIZES, **changes}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    return config


def search(pools, config: AlgorithmConfig, checkpoint: Checkpoint | None = None, seed: int = 0) -> SearchResult:
    space = spaces.of(config, pools.image_size, pools.image_channels)
    method = algorithms.ALGORITHMS[config.method]
    return method(space, pools, config, "nas.algorithms.mine", seed, "cpu", checkpoint or Checkpoint(None))


@pytest.fixture(scope="module", params=algorithms.ALGORITHMS)
def method(request):
    return request.param


@pytest.fixture(scope="module")
def uninterrupted(joined):
    """A function from a method to the result of an uninterrupted search, made once."""
    return functools.cache(lambda name: search(joined, small(name)))


@pytest.fixture(scope="module")
def whole(uninterrupted, method):
    """The result of an uninterrupted search."""
    return uninterrupted(method)


def test_every_algorithm_has_a_settings_class():
    assert algorithms.ALGORITHMS.keys() == ALGORITHM_TYPES.keys()
    assert all(kind().method == name for name, kind in ALGORITHM_TYPES.items())


def test_the_result_is_one_of_the_scored_architectures(method, whole):
    result, space = whole, spaces.of(small(method), 16)
    assert result.best in result.measures
    assert len({tuple(measures) for measures in result.measures.values()}) == 1  # a table has the same columns in every row
    assert all(set(row) == set(result.history[0]) for row in result.history)
    assert [row["step"] for row in result.history] == sorted({row["step"] for row in result.history})
    assert all(space.decode(space.encode(genotype)) == genotype for genotype in result.measures)
    if isinstance(small(method), LimitedConfig):
        assert all(space.macs(genotype) <= 250_000 for genotype in result.measures)


def test_the_result_is_a_function_of_the_seed(joined, method, whole):
    assert search(joined, small(method)) == whole
    assert search(joined, small(method), seed=1).measures != whole.measures


def test_a_killed_search_resumes_to_the_same_result(joined, method, whole, interrupted):
    # SPOS takes 8 supernet steps, then scores 12 cells: killed in the training, after its last step, and twice in the evolution.
    deaths = [5, 5, 6, 3] if method == "spos" else [3, 4]
    assert interrupted(lambda checkpoint: search(joined, small(method), checkpoint), deaths, every=2) == whole


@pytest.mark.parametrize("relaxed", [name for name, kind in ALGORITHM_TYPES.items() if issubclass(kind, RelaxedConfig)])
def test_a_relaxed_search_stops_early_at_too_many_skip_connections(joined, monkeypatch, relaxed):
    """An architecture with two skip connections, then one with five: with at most three allowed, the first is the result."""
    few, many = ("nor_conv_3x3",) * 4 + ("skip_connect",) * 2, ("nor_conv_3x3",) + ("skip_connect",) * 5
    calls = []

    def architecture(self):
        calls.append(1)
        return few if len(calls) < 2 else many

    monkeypatch.setattr(Alphas, "architecture", architecture)
    ended = search(joined, small(relaxed, supernet_steps=12, max_skips=3, second_order=False))
    assert (ended.best, ended.facts["ended_early"], ended.facts["skips"]) == (few, 1, 2)
    assert many not in ended.measures
    calls.clear()
    free = search(joined, small(relaxed, supernet_steps=12, second_order=False))
    assert (free.best, free.facts["ended_early"], free.facts["skips"]) == (many, 0, 5)
    entropies = [row["entropy"] for row in ended.history]
    assert entropies[-1] == entropies[-2] != entropies[0]  # the architecture weights did not change after the early stop


@pytest.mark.parametrize("limited", [name for name, kind in ALGORITHM_TYPES.items() if issubclass(kind, LimitedConfig)])
def test_a_limit_below_every_architecture_is_refused(joined, limited):
    with pytest.raises(UserError, match="nas.algorithms.mine.max_parameters: got 10, but the cheapest architecture"):
        search(joined, small(limited, max_parameters=10))


@pytest.mark.parametrize(
    ("name", "changes"),
    [("proxyless", {"cost": "latency", "cost_target": 1.0}), ("zero_cost", {"max_latency": 1e4}), ("spos", {"max_latency": 1e4})],
)
def test_measured_latency_is_a_cost_a_limit_and_a_measure(joined, uninterrupted, name, changes):
    result = search(joined, small(name, **changes))
    assert result.best in result.measures
    assert all(measures["latency"] > 0 for measures in result.measures.values())
    assert not any("latency" in measures for measures in uninterrupted(name).measures.values())
    if name == "proxyless":
        assert result.facts["expected_latency"] > 0


# Each trains a supernet in another way; random search trains that of SPOS.
SUPERNETS = ["darts", "proxyless", "spos"]
SPACES = ["darts", "mbconv", "mbconv_imagenet", "slim_resnet"]


@pytest.mark.parametrize(
    ("name", "space"), [*itertools.product(SUPERNETS, SPACES), *zip(sorted({*algorithms.ALGORITHMS} - {*SUPERNETS}), SPACES, strict=False)]
)
def test_every_algorithm_searches_other_spaces(joined, name, space):
    """Without limits, in a few steps."""
    config = small(
        name,
        space=space,
        max_macs=0,
        supernet_steps=2,
        generations=1,
        population=2,
        parents=1,
        candidates=2,
        warm_up=0.0,
        second_order=False,
    )
    result = search(joined, config)
    searched = spaces.of(config, joined.image_size)
    assert searched.decode(searched.encode(result.best)) == result.best in result.measures
