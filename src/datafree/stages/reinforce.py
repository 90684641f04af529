"""Stage ``reinforce``: views of the pools of one inversion method with the predictions of all reliable teachers."""

from __future__ import annotations

import torch
from torch import Tensor

from datafree import artifacts, devices
from datafree.config import ReinforcementConfig, typed
from datafree.data.images import contact_sheet
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.reinforced_pools import ReinforcedPools
from datafree.distillation.reinforcement import reinforce
from datafree.stages.files.ensembles import read_ensemble
from datafree.workflow.job_checkpoints import checkpoint_of
from datafree.workflow.provenance import Job

FOLDER = "artifacts/tasks/{method}/reinforced"
READS = ("seed", "reinforcement")
SHOWN = 12  # images of the preview


def run(job: Job) -> None:
    """Inputs: ``zoo`` and ``pools``, the indexes of the teachers and of their pools; ``reliability``.

    Outputs: ``views`` (the stored views with their predictions), ``preview`` (images above their views), ``metrics``.
    """
    config = typed(ReinforcementConfig, job.config["reinforcement"])
    checkpoint = checkpoint_of(job)
    with devices.use(job.config["device"]) as device, devices.autocast(device, job.config["precision"]):
        ensemble = read_ensemble(job, device)
        reinforced = reinforce(ensemble, config, devices.derive_seed(job.config["seed"], "reinforce"), checkpoint)
    metadata = {
        "plain": reinforced.plain,
        "images": list(reinforced.images),
        "classes": list(reinforced.classes),
        "stored": list(reinforced.tensors),
    }
    artifacts.write_tensors(job.output("views"), reinforced.tensors, **metadata)
    artifacts.write_image(job.output("preview"), contact_sheet(_preview(ensemble, reinforced), SHOWN))
    count, images = reinforced.views.shape[:2]
    teachers = sum(classes > 0 for classes in reinforced.classes)
    metrics = {"images": images, "views_per_image": count, "teachers": teachers, "megabytes": reinforced.nbytes / 2**20}
    artifacts.write_json(job.output("metrics"), metrics)
    checkpoint.clear()


def _preview(ensemble: TeacherEnsemble, reinforced: ReinforcedPools) -> Tensor:
    """Some images, evenly spread over the pools, and all their views, row by row: uint8 [(1 + views) · ``SHOWN``, C, H, W]."""
    images = torch.cat([ensemble.pools[index].images for index in ensemble.reliable])
    shown = torch.arange(SHOWN) * len(images) // SHOWN
    return torch.cat([images[shown], reinforced.views[:, shown].flatten(0, 1)])
