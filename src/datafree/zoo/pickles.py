"""Inspect a pickle without executing it, before PyTorch's restricted reader (``weights_only=True``) loads it.

That reader builds nothing but tensors and plain containers. It still hashes dictionary keys, and a few hundred bytes can describe a
nested tuple whose hash takes years, or one so deep that hashing it exhausts the stack. One pass over the operations computes the
expanded size of every tuple.
"""

from __future__ import annotations

import pickletools
from typing import BinaryIO

MAX_OPERATIONS = 5_000_000
MAX_TUPLE = 10_000  # values in one tuple, including those of nested tuples
PLAIN = 1  # size of anything but a tuple: it is not hashable, or its hash does not depend on nested values
MARK = -1

TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT")
MEMO_READS = ("GET", "BINGET", "LONG_BINGET")


class Suspicious(Exception):
    """The pickle is damaged, or made to exhaust its reader."""


def inspect(file: BinaryIO) -> None:
    """Check one pickle, from the file's position to its STOP operation, where the position is left.

    Raises:
        Suspicious: the pickle is damaged or too long, or has a tuple that is too large.
    """
    stack: list[int] = []
    memo: dict[int, int] = {}
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPERATIONS:
                raise Suspicious(f"more than {MAX_OPERATIONS} pickle operations")
            _step(operation, argument, stack, memo)
    except (ValueError, IndexError, KeyError, UnicodeError, OverflowError) as error:
        raise Suspicious(f"damaged pickle: {' '.join(str(error).split())[:80]}") from None


def _step(operation: pickletools.OpcodeInfo, argument: object, stack: list[int], memo: dict[int, int]) -> None:
    name = operation.name
    if name == "MARK":
        stack.append(MARK)
    elif name in MEMO_WRITES:
        memo[int(argument)] = stack[-1]  # pyright: ignore[reportArgumentType]
    elif name == "MEMOIZE":
        memo[len(memo)] = stack[-1]
    elif name in MEMO_READS:
        stack.append(memo[int(argument)])  # pyright: ignore[reportArgumentType]
    elif name == "DUP":
        stack.append(stack[-1])
    elif name == "TUPLE" or name in TUPLES:
        items = _pop_to_mark(stack) if name == "TUPLE" else [stack.pop() for _ in range(TUPLES[name])]
        size = PLAIN + sum(items)
        if size > MAX_TUPLE:
            raise Suspicious(f"a tuple of more than {MAX_TUPLE} values")
        stack.append(size)
    else:
        before = [item.name for item in operation.stack_before]
        if "mark" in before:
            _pop_to_mark(stack)
            before = before[: before.index("mark")]
        for _ in before:
            stack.pop()
        stack.extend(PLAIN for _ in operation.stack_after)


def _pop_to_mark(stack: list[int]) -> list[int]:
    items = []
    while (item := stack.pop()) != MARK:
        items.append(item)
    return items
