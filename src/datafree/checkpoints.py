"""Checkpoints of long work: killed at any moment, it goes on from the last one to the same result.

Random draws come from generators derived from the step number, so a checkpoint needs no random state: only weights, optimisers, the
step and the curve so far.
"""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any, Protocol

import torch

from datafree import artifacts


class HasState(Protocol):
    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class Checkpoint:
    """One file that holds the latest state of one piece of work.

    ``fingerprint`` names the work: a checkpoint of other settings, code or inputs is ignored. ``path=None`` keeps nothing.
    """

    def __init__(self, path: Path | None, fingerprint: str = "", seconds_between: float = 20.0) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.seconds_between = seconds_between
        self._last = time.monotonic()

    def restore(self, **objects: HasState) -> tuple[int, list[dict[str, float]]]:
        """Load the objects' states if there is a matching checkpoint; returns the next step and the curve so far."""
        if self.path is None or not self.path.is_file():
            return 0, []
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            fits = saved["fingerprint"] == self.fingerprint and set(saved["states"]) == set(objects)
        except Exception:  # damaged bytes can make the reader fail with any type of exception
            return 0, []
        if not fits:
            return 0, []
        for name, thing in objects.items():
            thing.load_state_dict(saved["states"][name])
        return saved["step"], saved["history"]

    def save(self, step: int, history: list[dict[str, float]], **objects: HasState) -> None:
        """Keep the states if the last checkpoint is old enough; ``step`` is the next one to do."""
        if self.path is None or time.monotonic() - self._last < self.seconds_between:
            return
        states = {name: thing.state_dict() for name, thing in objects.items()}
        content = io.BytesIO()  # on a full disk PyTorch's own writer raises no OSError
        torch.save({"fingerprint": self.fingerprint, "step": step, "history": history, "states": states}, content)
        with artifacts.atomic(self.path) as part:
            part.write_bytes(content.getbuffer())
        self._last = time.monotonic()

    def clear(self) -> None:
        """The work is done and its results are written: drop the file."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
