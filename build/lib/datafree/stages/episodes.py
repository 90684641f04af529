"""Stage ``episodes``: few-shot tasks over the pools of one inversion method."""

from __future__ import annotations

from datafree import artifacts
from datafree.config import TasksConfig, typed
from datafree.provenance import Job
from datafree.tasks.episodes import sample_episodes
from datafree.tasks.pools import read_pools


def run(job: Job) -> None:
    """Inputs: ``pools`` and ``cards``, one per teacher. Outputs: ``episodes``, ``metrics``."""
    pools = read_pools(job.input_list("pools"), job.input_list("cards"))
    episodes = sample_episodes(pools, typed(TasksConfig, job.config["tasks"]), job.config["seed"])
    tensors = {"index": episodes.index, "teacher": episodes.teacher, "label": episodes.label}
    artifacts.write_tensors(job.output("episodes"), tensors, shot=episodes.shot)
    mixed = (episodes.teacher != episodes.teacher[:, :1]).any(1)
    counts = {"episodes": len(episodes), "mixed_episodes": int(mixed.sum()), "images": sum(len(pool.labels) for pool in pools)}
    artifacts.write_json(job.output("metrics"), counts)
