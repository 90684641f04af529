"""Breeding architectures that score well; Guo et al., "Single Path One-Shot Neural Architecture Search", ECCV 2020, section 3.3."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from datafree.devices import derive_seed
from datafree.nas.candidates import Candidates
from datafree.nas.search_result import Fitness, Measures, best_of
from datafree.nas.spaces import Genotype
from datafree.progress import progress

TRIES = 10  # children bred per child wanted, before the rest is drawn at random


class Breeding(Protocol):
    """The settings of an evolution."""

    population: int
    generations: int
    parents: int
    mutation: float


def evolve(
    evaluate: Callable[[Genotype], Measures], fitness: Fitness, candidates: Candidates, config: Breeding, seed: int
) -> tuple[dict[Genotype, Measures], list[list[Genotype]]]:
    """Evolution over ``candidates``: (measures in the order of scoring, architectures of each generation). None is scored twice.

    The first generation is random; of each later one, half are mutations and half crossovers of the best ``parents`` so far, and what
    breeding does not yield is drawn at random. Ends early when every candidate has a score. Breeding depends on seed and scores alone,
    so a run that looks up what it scored before it was killed takes the same course.
    """
    measures: dict[Genotype, Measures] = {}
    generations: list[list[Genotype]] = []
    for number in range(config.generations):
        found = _breed(measures, fitness, candidates, config, Random(derive_seed(seed, "generation", number)))
        if not found:
            break
        for genotype in progress(found, len(found), f"generation {number + 1}/{config.generations}"):
            measures[genotype] = evaluate(genotype)
        generations.append(found)
    return measures, generations


def _breed(
    measures: dict[Genotype, Measures], fitness: Fitness, candidates: Candidates, config: Breeding, random: Random
) -> list[Genotype]:
    """The next generation: up to ``population`` candidates without a score, each once."""
    values = fitness(measures)
    parents = sorted(values, key=values.__getitem__, reverse=True)[: config.parents]
    children: dict[Genotype, None] = {}

    def add(make: Callable[[], Genotype], limit: int) -> None:
        for _ in range(TRIES * config.population):
            if len(children) >= limit:
                return
            child = make()
            if child not in children and child not in measures and child in candidates:
                children[child] = None

    space = candidates.space
    if parents:
        add(lambda: space.mutate(random.choice(parents), config.mutation, random), config.population // 2)
        add(lambda: space.cross_over(random.choice(parents), random.choice(parents), random), config.population)
    return [*children, *candidates.others({*children, *measures}, config.population - len(children), random)]


def course(
    measures: dict[Genotype, Measures], generations: list[list[Genotype]], fitness: Fitness, macs: Callable[[Genotype], int]
) -> list[dict[str, float]]:
    """One row per generation: the best architecture so far, and the mean over the generation's own."""
    rows = []
    seen: dict[Genotype, Measures] = {}
    for number, own in enumerate(generations, 1):
        seen |= {genotype: measures[genotype] for genotype in own}
        best = best_of(seen, fitness)
        row: dict[str, float] = {"step": number}
        row |= {f"best_{name}": value for name, value in measures[best].items()}
        row["best_macs"] = macs(best)
        row |= {f"mean_{name}": sum(measures[one][name] for one in own) / len(own) for name in measures[best]}
        rows.append(row)
    return rows
