"""Stage ``episodes``: teacher reliability from the pools of one inversion method, and training episodes over the reliable pools."""

from __future__ import annotations

import sys
from dataclasses import asdict

from datafree import artifacts, devices
from datafree.config import TasksConfig, typed
from datafree.stages.files.pools import read_pools
from datafree.stages.files.teachers import read_teachers
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import Pool
from datafree.tasks.reliability import TeacherReliability, teacher_reliability, why_not_judged
from datafree.workflow.provenance import Job
from datafree.zoo.teachers import move

FOLDER = "artifacts/tasks/{method}"
READS = ("seed", "tasks")


def run(job: Job) -> None:
    """Inputs: ``zoo`` and ``pools``, the indexes of the teachers and of their pools.

    Outputs: ``episodes``, ``reliability``, ``metrics``.
    """
    config = typed(TasksConfig, job.config["tasks"])
    pools = read_pools(job.input("pools"), job.input("zoo"))
    results = _measure_reliability(job, pools)
    weights = [result.weight if config.check_teachers else 1.0 for result in results]
    episodes = sample_episodes(pools, weights, config, job.config["seed"])
    tensors = {"index": episodes.index, "teacher": episodes.teacher, "label": episodes.label}
    artifacts.write_tensors(job.output("episodes"), tensors, shot=episodes.shot)
    mixed = (episodes.teacher != episodes.teacher[:, :1]).any(1)
    rows = [{**asdict(result), "weight": weight} for result, weight in zip(results, weights, strict=True)]
    judged = {"checked": config.check_teachers, "not_judged": why_not_judged([result.recovery for result in results])}
    artifacts.write_json(job.output("reliability"), {**judged, "teachers": rows})
    counts = {"episodes": len(episodes), "mixed_episodes": int(mixed.sum()), "images": sum(len(pool.labels) for pool in pools)}
    teacher_counts = {"teachers": sum(weight > 0 for weight in weights), "teachers_dropped": sum(weight == 0 for weight in weights)}
    artifacts.write_json(job.output("metrics"), counts | teacher_counts)


def _measure_reliability(job: Job, pools: list[Pool]) -> list[TeacherReliability]:
    teachers = read_teachers(job.input("zoo"))
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        placed = [move(teacher, device) for teacher in teachers]
        seed = devices.derive_seed(job.config["seed"], "trust")
        results = teacher_reliability(pools, placed, seed=seed, device=device, together=devices.together(device))
    warnings = [result.warning for result in results if result.warning]
    if reason := why_not_judged([result.recovery for result in results]):
        warnings.append(f"the reliability of the teachers is not judged, and all have weight 1: {reason}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return results
