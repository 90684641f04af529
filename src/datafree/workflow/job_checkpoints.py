"""The checkpoint of a job: where it lies, and which configuration, code and inputs it is valid for."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from datafree import artifacts
from datafree.checkpoints import Checkpoint
from datafree.workflow.provenance import Job

FOLDER = Path(".datafree/checkpoints")


def checkpoint_of(job: Job) -> Checkpoint:
    """The checkpoint of a stage's job, valid for just its configuration, code and inputs."""
    content = {**job.specification(), "inputs": {path: artifacts.sha256(path) for path in job.input_paths()}}
    fingerprint = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Checkpoint(FOLDER / f"{job.name.replace('/', '.')}.pt", fingerprint)
