"""Slots of a supernet: modules that compute one option or a weighted sum of several, and the paths that choose among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor, nn

Choice = str | Mapping[str, Tensor]  # one option, or the weight (a scalar tensor) of each option of a mixture
Path = Sequence[Choice]  # one choice per slot


class Slot(nn.ModuleDict):
    """The options of one slot: x and a choice → the chosen option's output, or the weighted sum of several outputs.

    Only options named by the choice are computed. The output is None where only ``absent`` is chosen, which stands for zero.
    """

    def __init__(self, options: Mapping[str, nn.Module], absent: str = "") -> None:
        super().__init__(dict(options))
        self.absent = absent

    def forward(self, x: Tensor, choice: Choice) -> Tensor | None:
        if isinstance(choice, str):
            return None if choice == self.absent else self[choice](x)
        return total(weight * self[name](x) for name, weight in choice.items() if name != self.absent)


def total(terms: Iterable[Tensor | None]) -> Tensor | None:
    """The sum of all terms that are not None; None without any."""
    present = [term for term in terms if term is not None]
    return reduce(torch.add, present) if present else None
