"""Loss terms of every step of several recoveries that advance together, without a synchronisation with the device at each step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from datafree.errors import UserError
from datafree.progress import require_finite

STEPS_BETWEEN_READS = 25  # on a GPU, where each read waits for all work queued so far


class StepHistory:
    """Collects the loss terms of each row, one row per independent optimisation, on the device; ``read`` moves them to the host.

    ``errors``: for each row None, or the error of the first step at which a term was NaN or infinite; the other rows are not affected.
    """

    def __init__(self, labels: Sequence[str], rows: Sequence[list[dict[str, float]]], device: torch.device) -> None:
        """``labels`` name the rows in error messages; ``rows`` receive ``step`` and the terms. Two rows may share one list."""
        self.labels, self.rows = labels, rows
        self.errors: list[UserError | None] = [None] * len(labels)
        self.every = STEPS_BETWEEN_READS if device.type == "cuda" else 1
        self._unread: list[tuple[Sequence[int], tuple[str, ...], Tensor]] = []

    def add(self, steps: Sequence[int], terms: Mapping[str, Tensor]) -> None:
        """Add the terms of one step, each [R], and read them if it is time; ``steps`` are the R numbers of the step, counted from 1."""
        self._unread.append((steps, tuple(terms), torch.stack([value.detach().float() for value in terms.values()])))
        if len(self._unread) >= self.every:
            self.read()

    def read(self) -> None:
        """Move the terms that are still on the device into the rows, with one synchronisation."""
        if not self._unread:
            return
        unread, self._unread = self._unread, []
        same_names = len({names for _, names, _ in unread}) == 1
        blocks = torch.stack([values for _, _, values in unread]).tolist() if same_names else [values.tolist() for _, _, values in unread]
        for (steps, names, _), values in zip(unread, blocks, strict=True):
            for row, step in enumerate(steps):
                self._append(row, step, {name: of_rows[row] for name, of_rows in zip(names, values, strict=True)})

    def _append(self, row: int, step: int, terms: dict[str, float]) -> None:
        self.rows[row].append({"step": step, **terms})
        if self.errors[row] is None:
            try:
                require_finite(self.labels[row], step, **terms)
            except UserError as error:
                self.errors[row] = error
