"""Groups and chunks of recoveries that are computed together: as many as the free memory of the device holds, fewer if it runs out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Protocol, TypeVar

import torch

from datafree import devices
from datafree.errors import UserError
from datafree.inversion.recovered import Outcome, Outcomes
from datafree.zoo.hooks import output_sizes
from datafree.zoo.stacks import stackable
from datafree.zoo.teachers import Teacher

FREE_SHARE = 0.7  # of the free memory that a chunk may use
COPIES = 4  # of every layer's output: value, gradient, temporary results of the statistics, and the pass of an auxiliary teacher
BYTES = 4  # of a float32


class Indexed(Protocol):
    """A pool while it is recovered; ``index`` is its place among the recoveries."""

    index: int


Item = TypeVar("Item")
Pool = TypeVar("Pool", bound=Indexed)


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
    pools: Sequence[Pool], work: Callable[[Sequence[Pool], int], Sequence[tuple[int, Outcome]]], rows: int, rows_of_pool: int = 1
) -> Outcomes:
    """The outcomes of ``work(chunk, rows)`` for consecutive chunks of the pools, such that at most ``rows`` rows are computed at once.

    A pool has up to ``rows_of_pool`` independent rows; of a single pool ``work`` must not compute more than ``rows`` at once. If the
    device runs out of memory, the chunk is started again with half as many rows; results do not depend on the chunks. If not even one
    row fits, that is the outcome of all pools that are left.
    """
    done = 0
    while done < len(pools):
        chunk = pools[done : done + max(1, rows // rows_of_pool)]
        try:
            outcomes = work(chunk, rows)
        except torch.OutOfMemoryError as error:
            rows, reason = min(rows, len(chunk) * rows_of_pool) // 2, str(error).splitlines()[0]
        else:
            yield from outcomes
            done += len(chunk)
            continue
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if not rows:
            message = f"inversion: a single batch does not fit into the memory of the device ({reason}); lower `batch_size`"
            yield from ((pool.index, UserError(message)) for pool in pools[done:])
            return


def rows_that_fit(teacher: Teacher, batch_size: int) -> int:
    """How many batches of ``batch_size`` images for teachers of one architecture their device can hold at once, at least one."""
    return max(1, int(FREE_SHARE * devices.free_bytes(teacher.normalise.mean.device) / (batch_size * activation_bytes(teacher))))


def activation_bytes(teacher: Teacher) -> int:
    """An estimate of the memory in bytes that one image needs in a step: the outputs of all layers, several times."""
    return COPIES * BYTES * sum(output_sizes(teacher.network, teacher.normalise.mean.new_zeros(1, *teacher.input)))
