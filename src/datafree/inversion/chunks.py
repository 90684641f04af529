"""Groups and chunks of recoveries that are computed together: as many as the free memory of the device holds, fewer if it runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TypeVar

import torch

from datafree import devices
from datafree.errors import UserError
from datafree.zoo.hooks import output_sizes
from datafree.zoo.stacks import stackable
from datafree.zoo.teachers import Teacher

Item = TypeVar("Item")
Result = TypeVar("Result")

FREE_SHARE = 0.7  # of the free memory that a chunk may use
COPIES = 4  # of every layer's output: value, gradient, temporary results of the statistics, and the pass of an auxiliary teacher
BYTES = 4  # of a float32


def alike(items: Sequence[Item], teacher_of: Callable[[Item], Teacher], rest_of: Callable[[Item], Hashable]) -> list[list[Item]]:
    """The items in groups that can be computed in one pass: teachers of one architecture and input, and the rest equal."""
    teachers = [teacher_of(item) for item in items]
    groups: dict[Hashable, list[Item]] = {}
    for number, positions in enumerate(stackable([teacher.network for teacher in teachers])):
        for position in positions:
            key = (number, teachers[position].normalise.shape, rest_of(items[position]))
            groups.setdefault(key, []).append(items[position])
    return list(groups.values())


def in_chunks(
    items: Sequence[Item], work: Callable[[Sequence[Item], int], Sequence[Result]], rows: int, rows_of_item: int = 1
) -> Iterator[Result]:
    """The results of ``work(chunk, rows)`` for consecutive chunks of the items, such that at most ``rows`` rows are computed at once.

    An item has up to ``rows_of_item`` independent rows; of a single item ``work`` must not compute more than ``rows`` at once. If the
    device runs out of memory, the chunk is started again with half as many rows; results do not depend on the chunks.

    Raises:
        UserError: the memory does not suffice for one row.
    """
    done = 0
    while done < len(items):
        chunk = items[done : done + max(1, rows // rows_of_item)]
        try:
            results = work(chunk, rows)
        except torch.OutOfMemoryError as error:
            rows, reason = min(rows, len(chunk) * rows_of_item) // 2, str(error).splitlines()[0]
        else:
            yield from results
            done += len(chunk)
            continue
        if not rows:
            raise UserError(f"inversion: a single batch does not fit into the memory of the device ({reason}); lower `batch_size`")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def rows_that_fit(device: torch.device, teacher: Teacher, batch_size: int) -> int:
    """How many batches of ``batch_size`` images for teachers of one architecture the device can hold at once, at least one."""
    if device.type != "cuda":
        return 1 << 16
    return max(1, int(FREE_SHARE * devices.free_bytes(device) / (batch_size * activation_bytes(teacher))))


def activation_bytes(teacher: Teacher) -> int:
    """An estimate of the memory in bytes that one image needs in a step: the outputs of all layers, several times."""
    return COPIES * BYTES * sum(output_sizes(teacher.network, teacher.normalise.mean.new_zeros(1, *teacher.input)))
