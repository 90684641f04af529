"""Settings of the architecture searches (NAS), one dataclass per algorithm, and their bounds."""

from __future__ import annotations

from dataclasses import dataclass

from datafree.config.arms import Views


@dataclass
class AlgorithmConfig:
    """Settings of all algorithms."""

    method: str = ""
    inversion: str = "deep_inversion"  # inversion method whose pools are used
    views: Views = Views.reinforced  # reinforced = stored views with the teachers' predictions for them; fresh = new views, soft labels
    space: str = "nasbench201"  # search space, of datafree.nas.spaces.SPACES
    channels: int = 16  # channels of the first stage; the space defines those of the others
    cells: int = 1  # cells per stage
    batch_size: int = 32  # images per step
    temperature: float = 4.0  # of the distillation loss
    validation: float = 0.1  # share of the pools held out to score candidates
    retrain_steps: int = 400  # training steps of the chosen architecture as a stand-alone network


@dataclass
class LimitedConfig(AlgorithmConfig):
    """An algorithm that scores single candidates and takes only those within all limits; null = no limit."""

    max_macs: int | None = 15000000  # multiply-adds of the network for one image
    max_parameters: int | None = None  # parameters of the network
    max_latency: float | None = None  # milliseconds for one image on the machine of the search, on which the result then depends


@dataclass
class OneShotConfig(LimitedConfig):
    """An algorithm that scores candidates in a supernet trained with uniformly sampled paths."""

    supernet_steps: int = 1000  # training steps of the supernet
    learning_rate: float = 0.2  # of the supernet: SGD, cosine to 0
    prior: str | None = None  # zero-cost proxy (of PROXIES) that ranks the candidates together with the supernet; null = supernet only
    prefilter: int = 0  # random candidates that the prior scores before the supernet's training; 0 = no pre-filter
    prefilter_share: float = 0.2  # best share of these candidates; only they are trained and searched


@dataclass
class SposConfig(OneShotConfig):
    """SPOS (single-path one-shot): evolutionary search with scores from the supernet."""

    method: str = "spos"
    population: int = 16  # candidates per generation
    generations: int = 4
    parents: int = 6  # best candidates so far, from which the next generation is made
    mutation: float = 0.2  # probability per slot


@dataclass
class RandomConfig(OneShotConfig):
    """Random search in the same supernet: the baseline of the other searches."""

    method: str = "random"
    candidates: int = 64  # random architectures that are scored


@dataclass
class RelaxedConfig(AlgorithmConfig):
    """An algorithm that learns architecture parameters by gradient descent, in alternation with the network's weights."""

    supernet_steps: int = 400  # training steps of the supernet
    learning_rate: float = 0.025  # of the network: SGD, cosine to a 25th
    weight_decay: float = 0.0003  # of the network
    alpha_learning_rate: float = 0.01  # of the architecture parameters: Adam
    warm_up: float = 0.1  # share of the steps before the first step on the architecture parameters
    max_skips: int | None = None  # the search stops before the architecture has more skip connections (DARTS+); null = no early stop


@dataclass
class DartsConfig(RelaxedConfig):
    """DARTS: differentiable search over a mixture of all options. The paper's ``alpha_learning_rate`` is 0.0003 in 50 times the steps."""

    method: str = "darts"
    gradient_clip: float | None = 5.0  # largest gradient norm of the network's weights; null = no clipping
    second_order: bool = False  # true = architecture gradient through one step of the network's weights
    auxiliary_skip: bool = False  # true = a skip connection in parallel to every mixture, which fades out (DARTS-)


@dataclass
class ProxylessConfig(RelaxedConfig):
    """ProxylessNAS: options sampled by their probability, which is learned through binary gates; the expected cost is a loss term.

    The paper's ``alpha_learning_rate`` is 0.001, in many more steps.
    """

    method: str = "proxyless"
    supernet_steps: int = 1000
    learning_rate: float = 0.05
    weight_decay: float = 0.00004
    alpha_every: int = 2  # weight steps per architecture step; the paper uses 5
    warm_up: float = 0.25
    paths: int = 2  # options per slot that an architecture step computes and compares, at most all
    cost: str = "macs"  # macs or latency
    cost_target: float = 10000000.0  # multiply-adds or milliseconds, depending on `cost`
    cost_weight: float = 0.1  # weight of the expected cost's relative distance to the target; 0 = no cost term


@dataclass
class ZeroCostConfig(LimitedConfig):
    """Evolutionary search with a zero-cost proxy: a score of untrained networks on noise."""

    method: str = "zero_cost"
    proxy: str = "synflow"  # zero-cost proxy, of PROXIES
    population: int = 32  # candidates per generation
    generations: int = 8  # 1 = random search
    parents: int = 8  # best candidates so far, from which the next generation is made
    mutation: float = 0.2  # probability per slot


# Costs of ProxylessNAS, and the zero-cost proxies of datafree.nas.proxy_scores.
COSTS = ("macs", "latency")
PROXIES = ("parameters", "macs", "synflow", "jacob_cov", "nwot", "zen", "az_nas", "az_synflow")

ALGORITHM_TYPES: dict[str, type] = {
    "spos": SposConfig,
    "random": RandomConfig,
    "darts": DartsConfig,
    "proxyless": ProxylessConfig,
    "zero_cost": ZeroCostConfig,
}

# Inclusive bounds, as datafree.config.schema.BOUNDS.
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
