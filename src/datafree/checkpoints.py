"""Checkpoints of long loops: a job that is killed at any moment resumes from the last checkpoint and gives the same result.

Random generators are derived from the step number, so a checkpoint holds no random state: only weights, optimisers, the step and the
training curve so far.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from datafree import artifacts


class HasState(Protocol):
    """Anything with a state dict: a module, an optimiser, a schedule."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


class SavedState:
    """Tensors and dictionaries of tensors by name, as an object that a checkpoint can save."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        return dict(self.values)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = dict(state_dict)


class Checkpoint:
    """One file with the latest state of one job.

    ``fingerprint`` identifies settings, code and inputs: a checkpoint with another fingerprint is ignored. With ``path=None`` nothing is
    saved.
    """

    def __init__(self, path: Path | None, fingerprint: str = "", seconds_between: float = 20.0) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.seconds_between = seconds_between
        self._last = time.monotonic()

    def restore(self, **objects: HasState) -> tuple[int, list[dict[str, float]]]:
        """Load the objects' states from a matching checkpoint; returns the next step and the curve so far, (0, []) without one."""
        if self.path is None or not self.path.is_file():
            return 0, []
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            matches = saved["fingerprint"] == self.fingerprint and set(saved["states"]) == set(objects)
        except Exception:  # damaged bytes can make the reader fail with any type of exception
            return 0, []
        if not matches:
            return 0, []
        for name, target in objects.items():
            target.load_state_dict(saved["states"][name])
        return saved["step"], saved["history"]

    @property
    def due(self) -> bool:
        """Whether the last checkpoint is older than ``seconds_between``."""
        return self.path is not None and time.monotonic() - self._last >= self.seconds_between

    def save(self, step: int, history: list[dict[str, float]], **objects: HasState) -> None:
        """Save the states if it is due; ``step`` is the next step."""
        if self.due:
            self.write(step, history, **objects)

    def write(self, step: int, history: list[dict[str, float]], **objects: HasState) -> None:
        """Save the states, whenever the last checkpoint was."""
        if self.path is None:
            return
        states = {name: _without_rest(source.state_dict()) for name, source in objects.items()}
        content = io.BytesIO()  # on a full disk PyTorch's own writer raises no OSError
        torch.save({"fingerprint": self.fingerprint, "step": step, "history": history, "states": states}, content)
        with artifacts.atomic(self.path) as part:
            part.write_bytes(content.getbuffer())
        self._last = time.monotonic()

    def clear(self) -> None:
        """Delete the file, once the results of the job are written."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def _without_rest(state: Any) -> Any:
    """A state in which a tensor that is a part of a larger one is a copy: PyTorch would save all of the larger one."""
    if isinstance(state, torch.Tensor):
        return state.clone() if state.untyped_storage().nbytes() > state.nbytes else state
    if isinstance(state, Mapping):
        return {key: _without_rest(value) for key, value in state.items()}
    return [_without_rest(value) for value in state] if isinstance(state, list) else state
