"""The settings of every architecture search, one dataclass each, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class AlgorithmConfig:
    """What all algorithms have."""

    method: str = ""
    inversion: str = "deep_inversion"  # whose pools
    space: str = "nasbench201"  # of datafree.nas.spaces.SPACES
    channels: int = 16  # of the first stage; what it means for the others, and `cells`, is up to the space
    cells: int = 1  # per stage
    batch_size: int = 32
    temperature: float = 4.0
    validation: float = 0.1  # share of the pools held out to score candidates
    retrain_steps: int = 400


@dataclass
class LimitedConfig(AlgorithmConfig):
    """An algorithm that scores candidates one by one takes only those within all limits, of the network for one image; null = no limit."""

    max_macs: int | None = 15000000  # multiply-adds
    max_parameters: int | None = None
    max_latency: float | None = None  # milliseconds, measured on the machine that searches: the result is then that machine's


@dataclass
class OneShotConfig(LimitedConfig):
    """An algorithm whose candidates are scored in a supernet trained with uniform paths."""

    supernet_steps: int = 1000
    learning_rate: float = 0.2  # SGD, cosine to 0
    prior: str | None = None  # of PROXIES: candidates are ranked by it as well as by the supernet; null = by the supernet alone
    prefilter: int = 0  # random candidates that the prior compares before the training; 0 = none, and all are trained
    prefilter_share: float = 0.2  # share of them, the best: they alone are trained and chosen from


@dataclass
class SposConfig(OneShotConfig):
    """Single-path one-shot search: evolution of what scores well in the supernet."""

    method: str = "spos"
    population: int = 16
    generations: int = 4
    parents: int = 6  # best architectures that breed
    mutation: float = 0.2  # probability per choice


@dataclass
class RandomConfig(OneShotConfig):
    """The same supernet, and as many random architectures scored in it: what a search has to beat."""

    method: str = "random"
    candidates: int = 64


@dataclass
class RelaxedConfig(AlgorithmConfig):
    """An algorithm that learns a weight for every option, by gradient, in turn with the network's weights."""

    supernet_steps: int = 400
    learning_rate: float = 0.025  # of the network: SGD, cosine to a 25th
    weight_decay: float = 0.0003
    alpha_learning_rate: float = 0.01  # Adam
    warm_up: float = 0.1  # share of the steps before the first on the architecture
    max_skips: int | None = None  # the search ends before an architecture with more skip connections (DARTS+); null = no such end


@dataclass
class DartsConfig(RelaxedConfig):
    """Differentiable search in a mixture of all options. The paper's rate of the architecture is 0.0003, in fifty times as many steps."""

    method: str = "darts"
    gradient_clip: float | None = 5.0  # largest norm of the gradient of the network's weights; null = any
    second_order: bool = False  # the gradient through one step of the network's weights
    auxiliary_skip: bool = False  # a skip beside every mixture that fades out (DARTS-)


@dataclass
class ProxylessConfig(RelaxedConfig):
    """ProxylessNAS: options drawn by their probability, which is learned through binary gates; the expected cost is a term of the loss.

    The paper's rate of the architecture is 0.001, in many more steps.
    """

    method: str = "proxyless"
    supernet_steps: int = 1000
    learning_rate: float = 0.05
    weight_decay: float = 0.00004
    alpha_every: int = 2  # weight steps per step on the architecture; the paper takes 5
    warm_up: float = 0.25
    paths: int = 2  # options per slot that such a step compares, and computes; the number of options = all
    cost: str = "macs"  # of COSTS
    cost_target: float = 10000000.0  # multiply-adds, or milliseconds
    cost_weight: float = 0.1  # of the expected cost's relative distance to the target; 0 = none


@dataclass
class ZeroCostConfig(LimitedConfig):
    """Evolution by a score of untrained networks, on noise; with one generation, random draws."""

    method: str = "zero_cost"
    proxy: str = "synflow"  # of PROXIES
    population: int = 32
    generations: int = 8
    parents: int = 8  # best architectures that breed
    mutation: float = 0.2  # probability per choice


# What ProxylessNAS can be charged for, and what tells networks apart before training; see datafree.nas.zero_cost.
COSTS = ("macs", "latency")
PROXIES = ("parameters", "macs", "synflow", "jacob_cov", "nwot", "zen", "az_nas", "az_synflow")

ALGORITHM_TYPES: dict[str, type] = {
    "spos": SposConfig,
    "random": RandomConfig,
    "darts": DartsConfig,
    "proxyless": ProxylessConfig,
    "zero_cost": ZeroCostConfig,
}

# Inclusive, as datafree.config.schema.BOUNDS.
ALGORITHM_BOUNDS: dict[str, tuple[float | None, float | None]] = {
    "nas.algorithms.*.channels": (4, None),
    "nas.algorithms.*.cells": (1, None),
    "nas.algorithms.*.supernet_steps": (1, None),
    "nas.algorithms.*.prefilter": (0, None),
    "nas.algorithms.*.prefilter_share": (0.001, 1),
    "nas.algorithms.*.candidates": (1, None),
    "nas.algorithms.*.weight_decay": (0, 1),
    "nas.algorithms.*.gradient_clip": (1e-8, None),
    "nas.algorithms.*.alpha_learning_rate": (1e-8, 10),
    "nas.algorithms.*.alpha_every": (1, None),
    "nas.algorithms.*.warm_up": (0, 1),
    "nas.algorithms.*.max_skips": (1, None),
    "nas.algorithms.*.paths": (2, None),
    "nas.algorithms.*.cost_target": (1e-6, None),
    "nas.algorithms.*.cost_weight": (0, None),
    "nas.algorithms.*.batch_size": (2, None),
    "nas.algorithms.*.learning_rate": (1e-8, 10),
    "nas.algorithms.*.temperature": (0.1, 100),
    "nas.algorithms.*.population": (2, None),
    "nas.algorithms.*.generations": (1, None),
    "nas.algorithms.*.parents": (1, None),
    "nas.algorithms.*.mutation": (0, 1),
    "nas.algorithms.*.max_macs": (1, None),
    "nas.algorithms.*.max_parameters": (1, None),
    "nas.algorithms.*.max_latency": (1e-6, None),
    "nas.algorithms.*.validation": (0.01, 0.9),
    "nas.algorithms.*.retrain_steps": (1, None),
}
