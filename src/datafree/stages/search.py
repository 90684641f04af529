"""Stage ``search``: find a compact cell on the recovered pools."""

from __future__ import annotations

from typing import Any

from datafree import artifacts, checkpoints, devices
from datafree.config import SposConfig, typed
from datafree.nas import space, spos
from datafree.nas.drawing import draw_cell
from datafree.nas.pools import Pools
from datafree.provenance import Job
from datafree.tasks.pools import read_pools
from datafree.tasks.trust import read_odds
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import common_normalisation


def run(job: Job) -> None:
    """Inputs: ``pools`` and ``cards``, one per teacher; ``trust``.

    Outputs: ``architecture``, ``drawing``, ``history``, ``candidates``, ``metrics``.
    """
    name = job.wildcards["algorithm"]
    config: SposConfig = typed(SposConfig, job.config["nas.algorithm"])
    pools = joined_pools(job)
    checkpoint = checkpoints.of_job(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        found = spos.search(pools, config, f"nas.algorithms.{name}", nas_seed(job), device, checkpoint)
    cells = {cell: {**sizes(cell, pools, config), **score._asdict()} for cell, score in found.scores.items()}
    architecture = {
        "algorithm": name,
        "space": "nasbench201",
        "genotype": space.encode(found.best),
        "channels": config.channels,
        "cells": config.cells,
        "macs": cells[found.best]["macs"],
        "parameters": cells[found.best]["parameters"],
        "agreement": cells[found.best]["agreement"],
        "kl": cells[found.best]["kl"],
        "candidates_scored": len(cells),
        "seed": job.config["seed"],
    }
    artifacts.write_json(job.output("architecture"), architecture)
    artifacts.write_image(job.output("drawing"), draw_cell(found.best))
    artifacts.write_history(job.output("history"), spos.history(found, lambda cell: cells[cell]["macs"]))
    # The cell's number is its place in the enumeration of the space: a table of numbers alone.
    rows = [{"step": step, "cell": space.index_of(cell), **facts} for step, (cell, facts) in enumerate(cells.items(), 1)]
    artifacts.write_history(job.output("candidates"), rows)
    artifacts.write_json(job.output("metrics"), {**cells[found.best], **spos.comparison(found)})
    checkpoint.clear()


def joined_pools(job: Job) -> Pools:
    """The recovered pools of all teachers that are trusted at all as one, seen through the normalisation of a network for all teachers."""
    cards = [artifacts.read_json(path) for path in job.input_list("cards")]
    pools = read_pools(job.input_list("pools"), job.input_list("cards"))
    trusted = [pool for pool, odds in zip(pools, read_odds(job.input("trust")), strict=True) if odds > 0]
    return Pools.join(trusted, Normalise(*common_normalisation(cards)))


def nas_seed(job: Job) -> int:
    """One seed for search and retraining: they hold out the same images."""
    return devices.derive_seed(job.config["seed"], "nas", job.wildcards["algorithm"])


def sizes(cell: space.Genotype, pools: Pools, config: SposConfig) -> dict[str, Any]:
    """Multiply-adds and parameters of a cell's backbone, without heads."""
    counted = space.parameters(cell, config.channels, config.cells, 0, pools.image_channels)
    return {"macs": spos.cost(cell, pools, config), "parameters": counted}
