"""Reading what a learner is taught by: all teachers with their pools, sampling weights and reinforced pools."""

from __future__ import annotations

import torch

from datafree import artifacts, devices
from datafree.distillation.ensemble import TeacherEnsemble
from datafree.distillation.reinforced_pools import ReinforcedPools
from datafree.stages.files.cards import read_cards
from datafree.stages.files.pools import read_pools
from datafree.stages.files.tasks import read_sampling_weights
from datafree.stages.files.teachers import read_teachers
from datafree.workflow.provenance import Job
from datafree.zoo.backbones import Normalise
from datafree.zoo.teachers import common_normalisation, move


def read_ensemble(job: Job, device: torch.device) -> TeacherEnsemble:
    """The ensemble on a device, with the normalisation of a network for all teachers. The job has the inputs ``zoo``, ``pools``,
    ``reliability`` and, where views are stored, ``reinforced``."""
    teachers = [move(teacher, device) for teacher in read_teachers(job.input("zoo"))]
    normalise = Normalise(*common_normalisation(read_cards(job.input("zoo")))).to(device)
    return TeacherEnsemble(
        teachers,
        read_pools(job.input("pools"), job.input("zoo")),
        normalise,
        device,
        read_sampling_weights(job.input("reliability")),
        devices.together(device),
        read_reinforced(job).to(device) if "reinforced" in job.inputs else None,
    )


def read_reinforced(job: Job) -> ReinforcedPools:
    """The reinforced pools of the input ``reinforced`` of a job, on the CPU."""
    path = job.input("reinforced")
    metadata = artifacts.read_metadata(path)
    tensors = artifacts.read_tensors(path, *metadata["stored"])
    return ReinforcedPools(**tensors, plain=metadata["plain"], images=tuple(metadata["images"]), classes=tuple(metadata["classes"]))
