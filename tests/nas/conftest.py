from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig


class Killed(Exception):
    """Stands for whatever ends a process in the middle of its work."""


class DyingCheckpoint(Checkpoint):
    """Saves after every step named in ``at``, and dies at the first save that is asked for once ``dies`` have been asked for."""

    def __init__(self, path: Path, every: int, dies: int) -> None:
        super().__init__(path, "work", seconds_between=0)
        self.every, self.dies, self.requests = every, dies, 0

    def save(self, step, history, **objects):
        self.requests += 1
        if self.requests > self.dies:
            raise Killed
        if self.requests % self.every == 0:
            super().save(step, history, **objects)


@pytest.fixture
def interrupted(tmp_path) -> Callable:
    """Runs ``work(checkpoint)``, kills it after each of some numbers of steps, and resumes it until it is done."""

    def run(work: Callable, deaths: list[int], every: int):
        path = tmp_path / "checkpoint.pt"
        for dies in deaths:
            with pytest.raises(Killed):
                work(DyingCheckpoint(path, every, dies))
            assert path.is_file()
        return work(Checkpoint(path, "work", seconds_between=0))

    return run


@pytest.fixture
def small() -> SposConfig:
    """A search of a second: width 4, a few steps, a limit that leaves out about half of the cells at 16 pixels."""
    return SposConfig(
        channels=4,
        supernet_steps=12,
        batch_size=16,
        population=4,
        generations=3,
        parents=2,
        max_macs=250_000,
        validation=0.2,
        retrain_steps=12,
    )
