from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from datafree.checkpoints import Checkpoint
from datafree.config import SposConfig
from datafree.nas.supernet import Supernet


class Killed(Exception):
    """Raised to simulate that the process is killed."""


class KillingCheckpoint(Checkpoint):
    """Saves at every ``every``-th request and raises ``Killed`` at the first request after ``last`` requests."""

    def __init__(self, path: Path, every: int, last: int) -> None:
        super().__init__(path, "work", seconds_between=0)
        self.every, self.last, self.requests = every, last, 0

    def save(self, step, history, **objects):
        self.requests += 1
        if self.requests > self.last:
            raise Killed
        if self.requests % self.every == 0:
            super().save(step, history, **objects)


@pytest.fixture
def interrupted(tmp_path) -> Callable:
    """Runs ``work(checkpoint)``, kills and resumes it after each number of requests in ``deaths``, then lets it finish."""

    def run(work: Callable, deaths: list[int], every: int):
        path = tmp_path / "checkpoint.pt"
        for last in deaths:
            with pytest.raises(Killed):
                work(KillingCheckpoint(path, every, last))
            assert path.is_file()
        return work(Checkpoint(path, "work", seconds_between=0))

    return run


@pytest.fixture
def recorded_paths(monkeypatch) -> list[tuple]:
    """(path, number of images, training mode) of every forward pass of a supernet, in order."""
    passes, original = [], Supernet.forward

    def forward(self, images, path, teacher):
        passes.append((path, len(images), self.training))
        return original(self, images, path, teacher)

    monkeypatch.setattr(Supernet, "forward", forward)
    return passes


@pytest.fixture
def small() -> SposConfig:
    """A search that takes a second: width 4, a few steps, a limit that excludes about half of the cells at 16 pixels."""
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
