"""Evolutionary search by mutation and crossover; Guo et al., "Single Path One-Shot Neural Architecture Search", ECCV 2020, section 3.3."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from datafree.devices import derive_seed
from datafree.nas.candidates import Candidates
from datafree.nas.search_result import Fitness, Measures, best_of
from datafree.nas.space import Genotype
from datafree.progress import progress

TRIES = 10  # attempts at a new child, as a multiple of the population, before random candidates fill up the generation


class EvolutionSettings(Protocol):
    population: int
    generations: int
    parents: int
    mutation: float


def evolve(
    evaluate: Callable[[Genotype], Measures], fitness: Fitness, candidates: Candidates, config: EvolutionSettings, seed: int
) -> tuple[dict[Genotype, Measures], list[list[Genotype]]]:
    """Evolve ``candidates``: returns (measures in the order of scoring, the architectures of each generation). None is scored twice.

    The first generation is random. Half of each later generation are mutations and half are crossovers of the best ``parents`` so far;
    random candidates fill the remaining places. The search ends early when every candidate has a score. It depends only on seed and scores
    (a resumed run that looks up its earlier scores therefore continues identically).
    """
    measures: dict[Genotype, Measures] = {}
    generations: list[list[Genotype]] = []
    for number in range(config.generations):
        generation = _next_generation(measures, fitness, candidates, config, Random(derive_seed(seed, "generation", number)))
        if not generation:
            break
        for genotype in progress(generation, len(generation), f"generation {number + 1}/{config.generations}"):
            measures[genotype] = evaluate(genotype)
        generations.append(generation)
    return measures, generations


def _next_generation(
    measures: dict[Genotype, Measures], fitness: Fitness, candidates: Candidates, config: EvolutionSettings, random: Random
) -> list[Genotype]:
    """Up to ``population`` different candidates without a score."""
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
    return [*children, *candidates.sample_distinct({*children, *measures}, config.population - len(children), random)]


def generation_history(
    measures: dict[Genotype, Measures], generations: list[list[Genotype]], fitness: Fitness, macs: Callable[[Genotype], int]
) -> list[dict[str, float]]:
    """One row per generation: measures of the best architecture so far (``best_…``) and means over the generation (``mean_…``)."""
    rows = []
    scored: dict[Genotype, Measures] = {}
    for number, generation in enumerate(generations, 1):
        scored |= {genotype: measures[genotype] for genotype in generation}
        best = best_of(scored, fitness)
        row: dict[str, float] = {"step": number}
        row |= {f"best_{name}": value for name, value in measures[best].items()}
        row["best_macs"] = macs(best)
        row |= {f"mean_{name}": sum(measures[genotype][name] for genotype in generation) / len(generation) for name in measures[best]}
        rows.append(row)
    return rows
