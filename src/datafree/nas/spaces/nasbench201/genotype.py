"""Genotypes of NAS-Bench-201: six operations per cell, and their encoding as the benchmark's string.

A cell is a graph of four nodes: node 0 is the input, node 3 the output, and every node is the sum of its incoming edges (Dong and Yang,
"NAS-Bench-201: Extending the Scope of Reproducible Neural Architecture Search", ICLR 2020).
"""

from __future__ import annotations

import re

from datafree.errors import UserError

Genotype = tuple[str, ...]  # one operation per edge, in the order of EDGES

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target)
NODES = 4
STAGES = 3  # of the network around the cell

_FORM = re.compile(r"\|(\w+)~0\|\+\|(\w+)~0\|(\w+)~1\|\+\|(\w+)~0\|(\w+)~1\|(\w+)~2\|")


def encode(genotype: Genotype) -> str:
    """The benchmark's string ``|op~0|+|op~0|op~1|+|op~0|op~1|op~2|``: per target node, each operation with its source node."""
    return "|{}~0|+|{}~0|{}~1|+|{}~0|{}~1|{}~2|".format(*genotype)


def decode(text: str) -> Genotype:
    """The six operations of a string from ``encode``.

    Raises:
        UserError: another form, or an unknown operation.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise UserError(f"genotype: expected the form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|, got {text!r}; write one such cell")
    for operation in match.groups():
        if operation not in OPERATIONS:
            raise UserError(f"genotype: got the operation {operation!r} in {text!r}; allowed: {', '.join(OPERATIONS)}")
    return match.groups()
