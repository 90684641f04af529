"""The NAS-Bench-201 supernet: five operations on each of six edges."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from datafree.nas.slots import Path, Slot
from datafree.nas.spaces.nasbench201.genotype import EDGES, OPERATIONS
from datafree.nas.spaces.nasbench201.network import MacroNetwork, operation, run_cell


def supernet(width: int, cells: int, channels: int) -> MacroNetwork:
    return MacroNetwork(width, cells, channels, MixedCell)


class MixedCell(nn.Module):
    """All operations on all six edges: x [B, channels, H, W] and a path → the same shape."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.edges = nn.ModuleList(Slot({name: operation(name, channels) for name in OPERATIONS}, "none") for _ in EDGES)

    def forward(self, x: Tensor, path: Path) -> Tensor:
        return run_cell(x, [partial(edge, choice=choice) for edge, choice in zip(self.edges, path, strict=True)])
