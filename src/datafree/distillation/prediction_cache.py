"""Teacher predictions kept in the process: learners that see the same views in the same steps query the teachers once."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor

from datafree.zoo.teachers import Teacher

LARGEST = 2**28  # bytes of predictions; those of a step of the default study take 32 KiB


class PredictionCache:
    """Tensors by key, at most ``largest`` bytes of them; the least recently used ones are dropped first.

    All callers share the same tensor, so none may change it.
    """

    def __init__(self, largest: int = LARGEST) -> None:
        self.largest = largest
        self.bytes = 0
        self._kept: OrderedDict[bytes, Tensor] = OrderedDict()

    def get(self, key: bytes, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of the key, computed if it is not there."""
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        result = compute()
        self._kept[key] = result
        self.bytes += result.nbytes
        while self.bytes > self.largest:
            self.bytes -= self._kept.popitem(last=False)[1].nbytes
        return result


def digest(*parts: bytes | Tensor | str | int) -> bytes:
    """A hash of values; of a tensor on the CPU, of its content, shape, strides (they decide which kernels run) and dtype."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            sha.update(repr((part.shape, part.stride(), part.dtype)).encode())
            sha.update(part.contiguous().view(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(part if isinstance(part, bytes) else repr(part).encode())
        sha.update(b"\0")
    return sha.digest()


def teacher_digest(teacher: Teacher) -> bytes:
    """A hash of all that a teacher's predictions depend on, apart from its input: architecture, weights and normalisation."""
    normalise = teacher.normalise
    state = [part for name, value in teacher.network.state_dict().items() for part in (name, value.detach().cpu())]
    return digest(str(teacher.network), *state, normalise.mean.cpu(), normalise.std.cpu(), repr(normalise.shape))
