"""Checkpoints of jobs: path, and fingerprint of configuration, code and inputs."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from datafree import artifacts
from datafree.checkpoints import Checkpoint
from datafree.workflow.provenance import Job

FOLDER = Path(".datafree/checkpoints")


def checkpoint_of(job: Job) -> Checkpoint:
    """The checkpoint of a job, which is valid only for the same configuration, code and input contents."""
    content = {**job.specification(), "code": job.code, "inputs": {path: artifacts.sha256(path) for path in job.input_paths()}}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Checkpoint(FOLDER / f"{job.name.replace('/', '.')}.pt", fingerprint)
