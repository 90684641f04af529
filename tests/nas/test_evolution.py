from __future__ import annotations

from random import Random

import pytest

from datafree.config import SposConfig
from datafree.nas.candidates import Candidates
from datafree.nas.evolution import evolve, generation_history
from datafree.nas.search_result import best_of, mean_rank, negative_kl
from datafree.nas.space import Genotype
from datafree.nas.spaces.nasbench201.space import NasBench201Space

SPACE = NasBench201Space(16, 1, 32)
EVERYTHING = Candidates(SPACE, [])
TOY = SposConfig(population=40, generations=15, parents=10, mutation=0.2)


def _distance(genotype: Genotype, goal: Genotype) -> int:
    return sum(a != b for a, b in zip(genotype, goal, strict=True))


def _towards(goal: Genotype):
    return lambda genotype: {"agreement": 0.5, "kl": float(_distance(genotype, goal))}


def _every(step: int) -> Candidates:
    """Every ``step``-th cell."""
    return EVERYTHING.subset(EVERYTHING.listed[::step])


@pytest.mark.parametrize("seed", range(4))
def test_evolution_finds_the_optimum_of_a_fitness_table(seed):
    """600 of 9,444 cells are scored; as many random ones contain the optimum with a probability of 6 %."""
    goal = Random(seed).choice(EVERYTHING.listed)
    measures, generations = evolve(_towards(goal), negative_kl, EVERYTHING, TOY, seed)
    assert goal in measures
    assert len(measures) == sum(map(len, generations)) == 600


def test_fitness_is_the_kl_divergence_not_the_agreement():
    close, far = ("a",), ("b",)
    measures = {far: {"agreement": 0.9, "kl": 0.3}, close: {"agreement": 0.1, "kl": 0.2}}
    assert negative_kl(measures) == {close: -0.2, far: -0.3}
    assert best_of(measures, negative_kl) == close


def test_every_scored_cell_is_a_candidate_and_scored_once():
    allowed, evaluated = _every(7), []

    def evaluate(genotype):
        evaluated.append(genotype)
        return {"kl": Random(str(genotype)).random()}

    measures, _ = evolve(evaluate, negative_kl, allowed, TOY, 0)
    assert len(evaluated) == len(set(evaluated)) == len(measures)
    assert set(measures) <= set(allowed.listed)


def test_evolution_ends_when_every_candidate_has_a_score():
    allowed = _every(190)
    measures, generations = evolve(lambda genotype: {"kl": 0.0}, negative_kl, allowed, TOY, 0)
    assert set(measures) == set(allowed.listed)
    assert [len(cells) for cells in generations] == [40, 10]


def test_later_generations_descend_from_the_best():
    goal = EVERYTHING.listed[5000]
    _, generations = evolve(_towards(goal), negative_kl, EVERYTHING, TOY, 2)
    means = [sum(_distance(genotype, goal) for genotype in cells) / len(cells) for cells in generations]
    assert means[3] < means[0] - 1


def test_the_history_has_the_best_so_far_and_the_mean_of_each_generation():
    first, second, third = EVERYTHING.listed[:3]
    measures = {first: {"kl": 2.0}, second: {"kl": 4.0}, third: {"kl": 3.0}}
    rows = generation_history(measures, [[first, second], [third]], negative_kl, lambda genotype: 7)
    assert rows == [
        {"step": 1, "best_kl": 2.0, "best_macs": 7, "mean_kl": 3.0},
        {"step": 2, "best_kl": 2.0, "best_macs": 7, "mean_kl": 3.0},
    ]


def test_mean_ranks_of_three_architectures_by_hand():
    a, b, c = (("skip_connect",) * 6, ("none",) * 6, ("nor_conv_1x1",) * 6)
    assert mean_rank({a: 5.0, b: -1.0, c: 7.0}, {c: 0.0, a: 2.0, b: 0.0}) == pytest.approx({a: 5 / 6, b: 2.5 / 6, c: 4.5 / 6})
    assert mean_rank({}, {}) == {}
