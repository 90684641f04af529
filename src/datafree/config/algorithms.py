"""The settings of every architecture search, one dataclass each, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass

# What an algorithm can search in; see datafree.nas.spaces.
SPACES = ("nasbench201",)


@dataclass
class AlgorithmConfig:
    """What all algorithms have."""

    method: str = ""
    inversion: str = "five_quality"  # whose pools
    space: str = "nasbench201"  # of SPACES
    channels: int = 16  # of the first stage; what it means for the others, and `cells`, is up to the space
    cells: int = 1  # per stage
    batch_size: int = 32
    temperature: float = 4.0
    validation: float = 0.1  # share of the pools held out to score candidates
    retrain_steps: int = 400


@dataclass
class LimitedConfig(AlgorithmConfig):
    """An algorithm that scores candidates one by one takes only those within all limits, of the network for one image; 0 = no limit."""

    max_macs: int = 15000000  # multiply-adds
    max_parameters: int = 0
    max_latency: float = 0.0  # milliseconds, measured on the machine that searches: the result is then that machine's


@dataclass
class SposConfig(LimitedConfig):
    """Single-path one-shot search: a supernet trained with uniform paths, then evolution."""

    method: str = "spos"
    supernet_steps: int = 1000
    learning_rate: float = 0.2  # SGD, cosine to 0
    population: int = 16
    generations: int = 4
    parents: int = 6  # best architectures that breed
    mutation: float = 0.2  # probability per choice


ALGORITHM_TYPES: dict[str, type] = {"spos": SposConfig}

# Inclusive, as datafree.config.schema.BOUNDS.
ALGORITHM_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "nas.algorithms.*.channels": (4, None),
    "nas.algorithms.*.cells": (1, None),
    "nas.algorithms.*.supernet_steps": (1, None),
    "nas.algorithms.*.batch_size": (2, None),
    "nas.algorithms.*.learning_rate": (1e-8, 10),
    "nas.algorithms.*.temperature": (0.1, 100),
    "nas.algorithms.*.population": (2, None),
    "nas.algorithms.*.generations": (1, None),
    "nas.algorithms.*.parents": (1, None),
    "nas.algorithms.*.mutation": (0, 1),
    "nas.algorithms.*.max_macs": (0, None),
    "nas.algorithms.*.max_parameters": (0, None),
    "nas.algorithms.*.max_latency": (0, None),
    "nas.algorithms.*.validation": (0.01, 0.9),
    "nas.algorithms.*.retrain_steps": (1, None),
}
