"""The DARTS supernet: eight operations on each of fourteen edges of both cells."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from datafree.nas.slots import Path, Slot
from datafree.nas.spaces.darts.genotype import EDGES, OPERATIONS, CellShape
from datafree.nas.spaces.darts.network import CellInputs, DartsMacro, operation, run_cell


def supernet(width: int, cells: int, channels: int) -> DartsMacro:
    return DartsMacro(width, cells, channels, MixedCell)


class MixedCell(nn.Module):
    """All operations on all edges; uses the half of a path that belongs to its kind, normal or reduction."""

    def __init__(self, shape: CellShape) -> None:
        super().__init__()
        self.inputs = CellInputs(shape)
        self.edges = nn.ModuleList(Slot({name: operation(name, shape, source) for name in OPERATIONS}, "none") for source, _ in EDGES)

    def forward(self, before_last: Tensor, last: Tensor, path: Path) -> Tensor:
        shape = self.inputs.shape
        choices = path[len(EDGES) :] if shape.reduction else path[: len(EDGES)]
        edges = [partial(edge, choice=choice) for edge, choice in zip(self.edges, choices, strict=True)]
        return run_cell(self.inputs(before_last, last), shape, edges)
