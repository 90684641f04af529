"""All pairs of DARTS cells in one network: eight operations on each of fourteen edges of both cells."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from datafree.nas.mixing import Path, Slot
from datafree.zoo.backbones.darts import CellInputs, DartsMacro, operation, run_cell
from datafree.zoo.genotypes.darts import EDGES, OPERATIONS, CellShape


def supernet(width: int, cells: int, channels: int) -> DartsMacro:
    return DartsMacro(width, cells, channels, MixedCell)


class MixedCell(nn.Module):
    """All operations on all edges; of a path it takes the half for its kind."""

    def __init__(self, shape: CellShape) -> None:
        super().__init__()
        self.inputs = CellInputs(shape)
        self.edges = nn.ModuleList(Slot({name: operation(name, shape, source) for name in OPERATIONS}, "none") for source, _ in EDGES)

    def forward(self, before_last: Tensor, last: Tensor, path: Path) -> Tensor:
        shape = self.inputs.shape
        own = path[len(EDGES) :] if shape.reduction else path[: len(EDGES)]
        edges = [partial(edge, choice=choice) for edge, choice in zip(self.edges, own, strict=True)]
        return run_cell(self.inputs(before_last, last), shape, edges)
