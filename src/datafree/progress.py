"""Progress of long loops (a bar on a terminal, a line every few seconds in a log), and the check for diverged losses."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from datafree.errors import UserError

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 5.0


def progress(items: Iterable[T], total: int, label: str) -> Iterator[T]:
    """Yield the ``items`` and print the progress to standard error; ``total`` is their number, ``label`` the name of the task."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, desc=label, leave=False)
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_LINES:
            remaining = (now - start) / done * (total - done) if done else float("nan")
            print(f"{label}: {done}/{total}, {remaining:.0f} s left", file=sys.stderr, flush=True)
            last = now
        yield item
    print(f"{label}: {total}/{total}, {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def require_finite(label: str, step: float, **losses: float) -> None:
    """Stop a training that diverged.

    Raises:
        UserError: a loss is NaN or infinite.
    """
    for name, value in losses.items():
        if not math.isfinite(value):
            raise UserError(f"{label}: {name} became {value} at step {step}; lower the learning rate")
