import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from datafree.evaluation.intervals import mean_interval, over_seeds

values = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=12)


@given(values)
def test_the_interval_is_students(sample):
    result = mean_interval(sample)
    mean, error = np.mean(sample), stats.sem(sample)
    assert result["n"] == len(sample)
    assert result["mean"] == pytest.approx(mean, abs=1e-9)
    assert result["interval"] >= 0
    if error > 1e-9:
        low, high = stats.t.interval(0.95, len(sample) - 1, loc=mean, scale=error)
        assert result["mean"] - result["interval"] == pytest.approx(low, rel=1e-6, abs=1e-6)
        assert result["mean"] + result["interval"] == pytest.approx(high, rel=1e-6, abs=1e-6)


def test_it_covers_the_true_mean_in_95_percent_of_samples():
    random = np.random.default_rng(0)
    samples = random.normal(3.0, 2.0, (2000, 8))
    covered = [abs(result["mean"] - 3.0) <= result["interval"] for result in map(mean_interval, samples.tolist())]
    assert 0.935 < np.mean(covered) < 0.965


@pytest.mark.parametrize("accuracy", [0.25, 0.6, 0.95])
def test_it_covers_the_true_accuracy_of_simulated_episodes(accuracy):
    """Episodes of varying difficulty, 75 queries each: the accuracies are bounded, discrete and skewed, not normal."""
    random = np.random.default_rng(2)
    difficulty = random.beta(20 * accuracy, 20 * (1 - accuracy), (2000, 100))
    episodes = random.binomial(75, difficulty) / 75
    covered = [abs(result["mean"] - accuracy) <= result["interval"] for result in map(mean_interval, episodes.tolist())]
    assert 0.935 < np.mean(covered) < 0.965


def test_the_interval_of_one_value_and_of_equal_values_is_zero():
    assert mean_interval([0.25]) == {"mean": 0.25, "interval": 0.0, "n": 1}
    assert mean_interval([0.1] * 9) == {"mean": pytest.approx(0.1), "interval": pytest.approx(0, abs=1e-12), "n": 9}


def test_with_one_seed_the_interval_is_that_of_the_episodes():
    episodes = [0.2, 0.4, 0.9, 0.5]
    assert over_seeds([episodes]) == mean_interval(episodes)


def test_seeds_that_differ_widen_the_interval():
    random = np.random.default_rng(0)
    episodes = [(centre + 0.1 * random.standard_normal(600)).tolist() for centre in (0.4, 0.5, 0.6)]
    result = over_seeds(episodes)
    assert result["n"] == 1800
    assert result["mean"] == pytest.approx(np.mean(episodes))
    means = [np.mean(values) for values in episodes]
    assert result["interval"] == pytest.approx(stats.t.ppf(0.975, 2) * np.std(means, ddof=1) / math.sqrt(3))
    assert result["interval"] > 10 * mean_interval([value for values in episodes for value in values])["interval"]


def test_the_interval_is_never_narrower_than_that_of_the_episodes():
    episodes = [[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]]
    assert over_seeds(episodes)["interval"] == mean_interval([value for values in episodes for value in values])["interval"] > 0


def test_with_two_seeds_the_interval_covers_a_run_with_another_seed():
    random = np.random.default_rng(1)
    covered = []
    for _ in range(1000):
        centres = 0.5 + 0.05 * random.standard_normal(3)
        result = over_seeds([(centre + 0.02 * random.standard_normal(50)).tolist() for centre in centres])
        covered.append(abs(result["mean"] - 0.5) <= result["interval"])
    assert 0.93 < np.mean(covered) < 0.975
