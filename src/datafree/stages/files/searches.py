"""What search and retraining share: settings, the joined pools and the seed."""

from __future__ import annotations

from datafree import devices
from datafree.config import ALGORITHM_TYPES, AlgorithmConfig, typed
from datafree.distillation.joined_pools import JoinedPools
from datafree.stages.files.cards import read_cards
from datafree.stages.files.ensembles import read_reinforced
from datafree.stages.files.pools import read_pools
from datafree.stages.files.tasks import read_sampling_weights
from datafree.workflow.provenance import Job
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import common_normalisation


def algorithm_config(job: Job) -> AlgorithmConfig:
    tree = job.config[f"nas.algorithms.{job.wildcards['algorithm']}"]
    return typed(ALGORITHM_TYPES[tree["method"]], tree)


def joined_pools(job: Job) -> JoinedPools:
    """The pools of all teachers with a sampling weight above 0 as one pool, with the normalisation of a network for all teachers."""
    pools = read_pools(job.input("pools"), job.input("zoo"))
    weights = read_sampling_weights(job.input("reliability"))
    used = [pool for pool, weight in zip(pools, weights, strict=True) if weight > 0]
    reinforced = read_reinforced(job) if "reinforced" in job.inputs else None
    return JoinedPools.join(used, Normalise(*common_normalisation(read_cards(job.input("zoo")))), reinforced)


def nas_seed(job: Job) -> int:
    """The seed of search and retraining, which therefore hold out the same images."""
    return devices.derive_seed(job.config["seed"], "nas", job.wildcards["algorithm"])
