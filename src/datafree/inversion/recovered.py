"""What every inversion method returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Recovered:
    """One teacher's recovered pool.

    Attributes:
        images: uint8 [N, 3, S, S], on the CPU.
        labels: int64 [N], in the teacher's order.
        soft_labels: float16 [N, K], the teacher's probabilities.
        history: the curve of the work, one row per logged step; every row has the same keys, ``step`` first.
    """

    images: Tensor
    labels: Tensor
    soft_labels: Tensor
    history: list[dict[str, float]]
