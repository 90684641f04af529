"""Deals: the jobs of a stage on shards, lists of jobs that each have one process.

A process that imports PyTorch costs seconds before its first step, so a stage gets as many shards as processes can run at the same time,
and no more. Which jobs share a process changes no result. This module does not import PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STEPS_PER_PROCESS = 50  # training steps of a small network that take about as long as the start of a process
Names = dict[str, str]  # the wildcards of a job
Shards = dict[str, list[Names]]  # the jobs of each shard of a stage, by its number

SHARDED = ("teacher", "invert", "search", "retrain", "learner", "reference")  # stages whose jobs share processes


@dataclass(frozen=True)
class Capacity:
    """How many jobs a run computes at the same time: ``processes`` in all, ``on_gpus`` of them on GPUs."""

    processes: int
    on_gpus: int

    def of(self, stage: str, uses_gpu: bool) -> int:
        """The largest number of shards of a stage, at least 1."""
        slots = min(self.processes, self.on_gpus) if uses_gpu else self.processes
        # Oracles and judge run beside the inversions and learners, which can use the other half.
        return max(1, slots // 2 if stage == "reference" else slots)


def deal(tree: Mapping[str, Any], stage: str, jobs: Sequence[Names], slots: int) -> Shards:
    """The jobs of a stage, by their wildcards, on shards: at most ``slots`` of them, plus one for each group of jobs with other inputs.

    The shards of a group are of about equal cost, which is at least that of the start of a process, and each begins with its longest jobs.
    """
    groups: dict[tuple[str, ...], list[Names]] = {}
    for names in jobs:
        groups.setdefault(input_group(tree, stage, names), []).append(names)
    total = sum(_cost(tree, stage, names) for names in jobs)
    shards: list[list[Names]] = []
    for members in groups.values():
        costs = [_cost(tree, stage, names) for names in members]
        number = min(len(members), -(-slots * sum(costs) // total), max(1, sum(costs) // STEPS_PER_PROCESS))
        parts: list[list[Names]] = [[] for _ in range(number)]
        loads = [0] * number
        for block in sorted(_blocks(stage, members, number), key=lambda block: -sum(_cost(tree, stage, names) for names in block)):
            least = loads.index(min(loads))
            parts[least] += block
            loads[least] += sum(_cost(tree, stage, names) for names in block)
        shards += parts
    return {str(number): members for number, members in enumerate(shards)}


def _blocks(stage: str, members: Sequence[Names], number: int) -> list[list[Names]]:
    """The jobs in blocks of which each goes to one of ``number`` shards: the learners of one arm query the teachers only once."""
    if stage != "learner":
        return [[names] for names in members]
    arms = {names["arm"]: [other for other in members if other["arm"] == names["arm"]] for names in members}
    parts = -(-number // len(arms))
    return [block for seeds in arms.values() for first in range(parts) if (block := seeds[first::parts])]


def is_deal_of(shards: Mapping[str, Sequence[Names]], tree: Mapping[str, Any], stage: str, jobs: Sequence[Names]) -> bool:
    """Whether the shards hold exactly these jobs, and each only jobs with the same inputs."""
    dealt = [tuple(names.items()) for members in shards.values() for names in members]
    if sorted(dealt) != sorted(tuple(names.items()) for names in jobs):
        return False
    return all(len({input_group(tree, stage, names) for names in members}) == 1 for members in shards.values())


def input_group(tree: Mapping[str, Any], stage: str, names: Names) -> tuple[str, ...]:
    """What the inputs of a job follow from, files of its own apart: a shard waits for the inputs of all its jobs.

    ``tree`` is that of the plan, and has all jobs of the shard.
    """
    if stage == "teacher":
        return ("trained",) if tree["teachers"][names["teacher"]]["training"] else ()
    if stage == "invert":
        starts = ("meta_generator",) if starts_from_meta_generator(tree, names["method"]) else ()
        return (*starts, "zoo") if matches_statistics(tree, names["method"]) else starts
    if stage == "learner":
        arm = tree["meta"]["arms"][names["arm"]]
        return (*_pools_of(arm), tree["architectures"]["learner"][names["arm"]] or "")
    if stage == "reference":
        return (tree["architectures"]["reference"][names["reference"]] or "",)
    return _pools_of(tree["nas"]["algorithms"][names["algorithm"]])


def _pools_of(member: Mapping[str, Any]) -> tuple[str, str]:
    """Which pools an arm or a search reads: their inversion method, and whether as reinforced pools."""
    return (member["inversion"], "reinforced" if reads_reinforced(member) else "")


def reads_reinforced(member: Mapping[str, Any]) -> bool:
    """Whether an arm or a search learns from the stored views of the reinforced pools."""
    return member.get("views") == "reinforced"


def is_reinforced(tree: Mapping[str, Any], method: str) -> bool:
    """Whether an arm or a search of the study learns from reinforced pools of an inversion method."""
    members = [*tree["meta"]["arms"].values(), *tree["nas"]["algorithms"].values()]
    return any(reads_reinforced(member) and member["inversion"] == method for member in members)


def starts_from_meta_generator(tree: Mapping[str, Any], method: str) -> bool:
    """Whether an inversion method starts from the meta-generator."""
    return tree["inversion"]["methods"][method].get("initialisation") == "meta"


def matches_statistics(tree: Mapping[str, Any], method: str) -> bool:
    """Whether an inversion method matches BatchNorm statistics of auxiliary teachers, and so reads the whole zoo."""
    return bool(tree["inversion"]["auxiliary_teachers"]) and tree["inversion"]["methods"][method]["method"] != "black_box"


def _cost(tree: Mapping[str, Any], stage: str, names: Names) -> int:
    """The cost of a job relative to others of its stage: the number of its steps, at least 1."""
    if stage == "teacher":
        described = tree["teachers"][names["teacher"]]
        return (described["entry"]["train"]["steps"] or described["training"]["steps"]) if described["training"] else 1
    if stage == "invert":
        method = tree["inversion"]["methods"][names["method"]]
        return method.get("steps", 1) * method.get("calibration_rounds", 1)
    if stage == "learner":
        arm = tree["meta"]["arms"][names["arm"]]
        return arm.get("steps", 1) * arm.get("tasks_per_step", 1)
    if stage == "reference":
        reference = tree["references"][names["reference"]]
        return reference.get("arm", reference)["steps"]
    algorithm = tree["nas"]["algorithms"][names["algorithm"]]
    return algorithm.get("supernet_steps", 1) + algorithm["retrain_steps"]
