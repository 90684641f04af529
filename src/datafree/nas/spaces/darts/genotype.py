"""Genotypes of DARTS: the operations of a normal and a reduction cell, their encoding as a string, and the layout of the cells.

Liu et al., "DARTS: Differentiable Architecture Search", ICLR 2019. A cell has two inputs (the outputs of the two previous cells) and
four nodes; each node sums two operations on earlier nodes, and the output is the concatenation of the four nodes. All cells of one
kind, normal or reduction, have the same operations.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

from datafree.errors import UserError

Genotype = tuple[str, ...]  # one operation per edge of the normal cell, then of the reduction cell, in the order of EDGES; two per node

OPERATIONS = (
    "none", "max_pool_3x3", "avg_pool_3x3", "skip_connect", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5",
)  # fmt: skip
NODES = 4
EDGES = tuple((source, node + 2) for node in range(NODES) for source in range(node + 2))  # (source, target); 0 and 1 are the inputs
_PAIR = re.compile(r"\('(\w+)', (\d)\)")
_FORM = re.compile(r"Genotype\(normal=\[(.*?)\], normal_concat=range\(2, 6\), reduce=\[(.*?)\], reduce_concat=range\(2, 6\)\)")


class CellShape(NamedTuple):
    """One cell of the network: channels of its two inputs, of its nodes, and whether it or the previous cell halves the resolution."""

    before_last: int
    last: int
    width: int
    reduction: bool
    after_reduction: bool


def layout(width: int, cells: int) -> list[CellShape]:
    """Three stages of ``cells`` normal cells with a reduction cell between them, after a stem of 3 · ``width`` channels.

    Two cells per stage give the eight cells of the paper's search, six give the twenty of its networks for CIFAR.
    """
    kinds = ([False] * cells + [True]) * 2 + [False] * cells
    shapes, before_last, last, reduced = [], 3 * width, 3 * width, False
    for reduction in kinds:
        width *= 2 if reduction else 1
        shapes.append(CellShape(before_last, last, width, reduction, reduced))
        before_last, last, reduced = last, NODES * width, reduction
    return shapes


def node_values(node: int) -> list[Genotype]:
    """All allowed operations on a node's edges: two different sources, each with an operation other than ``none``."""
    sources, values = node + 2, []
    for pair in itertools.combinations(range(sources), 2):
        for operations in itertools.product(OPERATIONS[1:], repeat=2):
            by_source = dict(zip(pair, operations, strict=True))
            values.append(tuple(by_source.get(source, "none") for source in range(sources)))
    return values


def encode(genotype: Genotype) -> str:
    """The string that the authors' code prints: for each node its two operations with their sources."""
    half = len(EDGES)
    normal, reduce = (_encode_cell(part) for part in (genotype[:half], genotype[half:]))
    return f"Genotype(normal=[{normal}], normal_concat=range(2, 6), reduce=[{reduce}], reduce_concat=range(2, 6))"


def decode(text: str) -> Genotype:
    """The 28 operations of a string from ``encode``.

    Raises:
        UserError: another form, an unknown operation, or a node without two different earlier sources.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(f"genotype: expected the form Genotype(normal=[('op', source), …], normal_concat=range(2, 6), …), got {text!r}")
    return _decode_cell(match[1], text) + _decode_cell(match[2], text)


def _encode_cell(edges: Sequence[str]) -> str:
    present = zip(EDGES, edges, strict=True)
    return ", ".join(f"('{name}', {source})" for (source, _), name in present if name != "none")


def _decode_cell(part: str, text: str) -> Genotype:
    pairs = [(name, int(source)) for name, source in _PAIR.findall(part)]
    if ", ".join(f"('{name}', {source})" for name, source in pairs) != part or len(pairs) != 2 * NODES:
        raise UserError(f"genotype: expected {2 * NODES} pairs ('op', source) per cell in {text!r}")
    edges = dict.fromkeys(EDGES, "none")
    for place, (name, source) in enumerate(pairs):
        edge = (source, place // 2 + 2)
        if name not in OPERATIONS[1:]:
            raise UserError(f"genotype: got the operation {name!r} in {text!r}; allowed: {', '.join(OPERATIONS[1:])}")
        if edges.get(edge) != "none":
            raise UserError(f"genotype: node {edge[1]} has the source {source} in {text!r}; expected two different earlier ones")
        edges[edge] = name
    return tuple(edges.values())
