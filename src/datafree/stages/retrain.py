"""Stage ``retrain``: train the architecture of a search result as a stand-alone network on the recovered pools."""

from __future__ import annotations

from datafree import artifacts, devices
from datafree.nas.retrain import retrain
from datafree.stages.files.cards import read_cards
from datafree.stages.files.networks import searched_backbone
from datafree.stages.files.searches import algorithm_config, joined_pools, nas_seed
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job
from datafree.zoo.networks import network_card
from datafree.zoo.teachers import common_normalisation

FOLDER = "artifacts/nas/{algorithm}/retrained"
READS = ("seed", "nas.algorithms.{algorithm}")


def run(job: Job) -> None:
    """Inputs: ``architecture``; ``zoo`` and ``pools``, the indexes of the teachers and of their pools; ``reliability``.

    Outputs: ``network`` (the backbone's weights), ``card``, ``history``, ``metrics``.
    """
    config = algorithm_config(job)
    described = searched_backbone(job.input("architecture"))
    pools = joined_pools(job)
    checkpoint = checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        result = retrain(pools, described, config, nas_seed(job), device, checkpoint)
    backbone = result.network.backbone
    mean, std = common_normalisation(read_cards(job.input("zoo")))
    card = network_card(backbone, described, pools.images.shape[1:], mean, std)
    artifacts.write_tensors(job.output("network"), backbone.state_dict())
    artifacts.write_json(job.output("card"), card)
    artifacts.write_history(job.output("history"), result.curve)
    metrics = {**result.score._asdict(), "held_out_images": result.held_out, "final_loss": result.curve[-1]["loss"]}
    artifacts.write_json(job.output("metrics"), {**metrics, "macs": card["macs"], "parameters": card["parameters"]})
    checkpoint.clear()
