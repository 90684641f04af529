"""Reading the outputs of stage ``episodes``: training episodes, and the teachers' sampling weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from datafree import artifacts
from datafree.tasks.episodes import Episodes


def read_episodes(path: Path) -> Episodes:
    """The training episodes over the pools of one inversion method (episodes.safetensors)."""
    tensors = artifacts.read_tensors(path, "index", "teacher", "label")
    return Episodes(**tensors, shot=artifacts.read_metadata(path)["shot"])


def read_sampling_weights(path: Path) -> Tensor:
    """The sampling weight of each teacher, float64 [teachers], from reliability.json; 0 for a teacher that is not used."""
    return torch.tensor([row["weight"] for row in artifacts.read_json(path, "teachers")["teachers"]], dtype=torch.float64)
