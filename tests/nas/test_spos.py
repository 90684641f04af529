from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random

import pytest
import torch

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.errors import UserError
from datafree.nas import space, spos
from datafree.nas.distillation import Score


def _search(pools, config: SposConfig, checkpoint: Checkpoint | None = None, seed: int = 0) -> spos.Found:
    return spos.search(pools, config, "nas.algorithms.mine", seed, "cpu", checkpoint or Checkpoint(None))


def _distance(genotype: space.Genotype, goal: space.Genotype) -> int:
    return sum(a != b for a, b in zip(genotype, goal, strict=True))


EVERYTHING = space.candidates(10**9, lambda genotype: 0, "key")
TOY = SposConfig(population=40, generations=15, parents=10, mutation=0.2)


@pytest.mark.parametrize("seed", range(4))
def test_evolution_finds_the_optimum_of_a_fitness_table(seed):
    """600 of 9,444 cells are scored: a random draw of as many meets the optimum with a chance of 6 %."""
    goal = Random(seed).choice(EVERYTHING)
    scores, generations = spos.evolve(lambda genotype: Score(0.5, float(_distance(genotype, goal))), EVERYTHING, TOY, seed)
    assert goal in scores
    assert len(scores) == sum(map(len, generations)) == 600


def test_the_divergence_decides_whatever_the_agreement():
    near, far = EVERYTHING[10], EVERYTHING[20]
    assert spos.Found({near: Score(0.1, 0.2), far: Score(0.9, 0.3)}, [[near, far]], []).best == near


def test_every_scored_cell_is_a_candidate_and_scored_once():
    allowed = EVERYTHING[::7]
    asked = []

    def evaluate(genotype):
        asked.append(genotype)
        return Score(0.5, Random(space.index_of(genotype)).random())

    scores, _ = spos.evolve(evaluate, allowed, TOY, 0)
    assert len(asked) == len(set(asked)) == len(scores)
    assert set(scores) <= set(allowed)


def test_evolution_ends_when_every_candidate_has_a_score():
    allowed = EVERYTHING[:50]
    scores, generations = spos.evolve(lambda genotype: Score(0.0, 0.0), allowed, TOY, 0)
    assert set(scores) == set(allowed)
    assert [len(cells) for cells in generations] == [40, 10]


def test_later_generations_breed_from_the_best():
    goal = EVERYTHING[5000]
    _, generations = spos.evolve(lambda genotype: Score(0.5, float(_distance(genotype, goal))), EVERYTHING, TOY, 2)
    means = [sum(_distance(genotype, goal) for genotype in cells) / len(cells) for cells in generations]
    assert means[3] < means[0] - 1


def test_a_search_keeps_to_the_limit_and_reports_its_course(joined, small):
    found = _search(joined, small)
    assert len(found.scores) == 12
    assert all(spos.cost(genotype, joined, small) <= small.max_macs for genotype in found.scores)
    assert found.scores[found.best].kl == min(values.kl for values in found.scores.values())
    rows = spos.history(found, lambda genotype: spos.cost(genotype, joined, small))
    assert [row["step"] for row in rows] == [1, 2, 3]
    best = [row["best_kl"] for row in rows]
    assert best == sorted(best, reverse=True)
    assert best[-1] == found.scores[found.best].kl
    assert rows[-1]["best_macs"] == spos.cost(found.best, joined, small)
    facts = spos.comparison(found)
    assert facts["random_mean_kl"] == pytest.approx(rows[0]["mean_kl"])
    assert facts["random_best_kl"] == rows[0]["best_kl"]
    assert facts["distinct_cells_scored"] <= facts["candidates_scored"] == 12


def test_training_the_supernet_lowers_the_loss(joined, small):
    short, long = (_search(joined, replace(small, supernet_steps=steps, generations=1)) for steps in (1, 60))
    mean = [sum(values.kl for values in found.scores.values()) / len(found.scores) for found in (short, long)]
    assert mean[1] < 0.8 * mean[0]


def test_paths_are_drawn_evenly_from_the_candidates(joined, small, monkeypatch):
    drawn = Counter()
    original = spos.Supernet.forward

    def forward(self, images, genotype, teacher):
        drawn[genotype] += 1
        return original(self, images, genotype, teacher)

    monkeypatch.setattr(spos.Supernet, "forward", forward)
    candidates, training = EVERYTHING[::3000], torch.arange(len(joined.images))
    config = replace(small, supernet_steps=200, batch_size=2)
    spos.train_supernet(joined, training, candidates, config, 0, "cpu", Checkpoint(None), spos.ScoreTable())
    assert set(drawn) == set(candidates)
    assert all(abs(count - 50) < 20 for count in drawn.values())


def test_the_same_seed_gives_the_same_search(joined, small):
    first, second, other = _search(joined, small), _search(joined, small), _search(joined, small, seed=1)
    assert first == second
    assert first.scores != other.scores


def test_a_limit_that_no_cell_meets_is_refused_before_any_training(joined, small, monkeypatch):
    monkeypatch.setattr(spos, "train_supernet", None)
    smallest = space.smallest_macs(4, 1, 16, 0)
    with pytest.raises(UserError, match=rf"nas.algorithms.mine.max_macs: got {smallest - 1}, but the cheapest cell needs {smallest}"):
        _search(joined, replace(small, max_macs=smallest - 1))


def test_a_search_killed_anywhere_resumes_to_the_same_result(joined, small, interrupted):
    # 12 supernet steps, then 12 cells: killed in the training, at its last step, and twice in the evolution.
    resumed = interrupted(lambda checkpoint: _search(joined, small, checkpoint), deaths=[5, 7, 6, 3], every=2)
    assert resumed == _search(joined, small)


def test_a_resumed_search_does_not_score_again_what_it_has_scored(joined, small, interrupted, monkeypatch):
    scored = []

    def recalibrate(supernet, genotype, batches):
        scored.append(genotype)
        original(supernet, genotype, batches)

    original = spos.recalibrate
    monkeypatch.setattr(spos, "recalibrate", recalibrate)
    interrupted(lambda checkpoint: _search(joined, small, checkpoint), deaths=[18], every=1)
    # The seventh cell was scored but not kept.
    assert len(scored) == 12 + 1
    assert len(set(scored)) == 12


def test_images_of_any_size_and_channels_are_searched(joined, small):
    grey = replace(joined, images=joined.images[:, :1, :13, :13], normalise=type(joined.normalise)([0.5], [0.25]))
    found = _search(grey, replace(small, supernet_steps=2, generations=1))
    assert all(torch.isfinite(torch.tensor(values)).all() for values in found.scores.values())
