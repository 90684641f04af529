"""Stage ``search``: architecture search (NAS) on the recovered pools."""

from __future__ import annotations

import sys
from typing import Any

from datafree import artifacts, devices
from datafree.nas import spaces
from datafree.nas.algorithms import ALGORITHMS
from datafree.nas.candidate_plot import draw_candidates
from datafree.nas.search_result import SearchResult
from datafree.nas.space import Space
from datafree.stages.files.searches import algorithm_config, joined_pools, nas_seed
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job

FOLDER = "artifacts/nas/{algorithm}"
READS = ("seed", "nas.algorithms.{algorithm}")


def run(job: Job) -> None:
    """Inputs: ``zoo`` and ``pools``, the indexes of the teachers and of their pools; ``reliability``.

    Outputs: ``architecture``, ``drawing``, ``pareto``, ``history``, ``candidates``, ``metrics``.
    """
    name, config = job.wildcards["algorithm"], algorithm_config(job)
    pools = joined_pools(job)
    space = spaces.of(config, pools.image_size, pools.image_channels)
    checkpoint = checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        result = ALGORITHMS[config.method](space, pools, config, f"nas.algorithms.{name}", nas_seed(job), device, checkpoint)
    if space.is_degenerate(result.best):
        print(
            f"warning: the result of {name} is {space.encode(result.best)}, in which no operation between input and output has weights",
            file=sys.stderr,
        )
    sizes = {"macs": space.macs(result.best), "parameters": space.parameters(result.best)}
    architecture = {
        "algorithm": name,
        "space": space.name,
        "backbone": space.backbone(result.best).name,
        "genotype": space.encode(result.best),
        "channels": config.channels,
        "cells": config.cells,
        **sizes,
        **result.measures[result.best],
        "degenerate": space.is_degenerate(result.best),
        "candidates_scored": len(result.measures),
        "seed": job.config["seed"],
    }
    artifacts.write_json(job.output("architecture"), architecture)
    artifacts.write_image(job.output("drawing"), space.draw(result.best))
    artifacts.write_history(job.output("history"), result.history)
    rows = candidate_rows(space, result)
    artifacts.write_history(job.output("candidates"), rows)
    artifacts.write_image(job.output("pareto"), draw_candidates(rows, list(result.measures).index(result.best)))
    scored = {"candidates_scored": len(result.measures), "degenerate": int(space.is_degenerate(result.best))}
    artifacts.write_json(job.output("metrics"), {**sizes, **result.measures[result.best], **scored, **result.facts})
    checkpoint.clear()


def candidate_rows(space: Space, result: SearchResult) -> list[dict[str, Any]]:
    """One row of numbers per scored architecture: the index of the option in each slot, sizes and measures."""
    rows = []
    for step, (genotype, measures) in enumerate(result.measures.items(), 1):
        chosen = {f"choice_{slot}": space.choices[slot].index(option) for slot, option in enumerate(genotype)}
        sizes = {"macs": space.macs(genotype), "parameters": space.parameters(genotype)}
        rows.append({"step": step, **chosen, **sizes, **measures})
    return rows
