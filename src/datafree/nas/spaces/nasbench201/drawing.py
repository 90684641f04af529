"""A NAS-Bench-201 cell as a picture: a graph of four nodes with an operation on each of six edges."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from PIL import Image

from datafree.nas.drawing import to_image
from datafree.nas.spaces.nasbench201.genotype import EDGES, Genotype

# No two edges cross: nodes 1 and 2 are above each other, and the direct edge from input to output is bent around below.
POSITION = {0: (0.0, 0.8), 1: (3.2, 2.0), 2: (3.2, 0.0), 3: (6.4, 0.8)}
NODE_NAME = {0: "input", 1: "1", 2: "2", 3: "output"}
BEND = {(0, 3): 0.6}  # height of an arc relative to the distance of its ends
LABEL_POSITION = {(0, 3): (3.2, -1.12)}  # other labels are in the middle of their edge
RADIUS = 0.36
STYLE = {  # label and colour
    "none": ("none", "#b4bbc5"),
    "skip_connect": ("skip", "#5b6675"),
    "nor_conv_1x1": ("conv 1×1", "#1f6fb2"),
    "nor_conv_3x3": ("conv 3×3", "#b3402c"),
    "avg_pool_3x3": ("avg pool 3×3", "#2e7d4f"),
}


def draw_cell(genotype: Genotype) -> Image.Image:
    """The cell as an RGB picture: each edge an arrow labelled with its operation; ``none`` is dotted and has no label."""
    figure = Figure(figsize=(7.4, 3.9), dpi=110, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(-0.55, 6.95)
    axes.set_ylim(-1.45, 2.5)
    axes.set_aspect("equal")
    axes.axis("off")
    for edge, name in zip(EDGES, genotype, strict=True):
        _draw_edge(axes, edge, name)
    for node, (x, y) in POSITION.items():
        inner = node in (1, 2)
        axes.add_patch(Circle((x, y), RADIUS, facecolor="#ffffff" if inner else "#eceff3", edgecolor="#2b3440", linewidth=1.4, zorder=3))
        axes.text(x, y, NODE_NAME[node], ha="center", va="center", fontsize=13 if inner else 9.5, color="#2b3440", zorder=4)
    return to_image(figure)


def _draw_edge(axes: Axes, edge: tuple[int, int], name: str) -> None:
    label, colour = STYLE[name]
    (x0, y0), (x1, y1) = start, end = POSITION[edge[0]], POSITION[edge[1]]
    absent = name == "none"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            connectionstyle=f"arc3,rad={BEND.get(edge, 0.0)}",
            arrowstyle="-" if absent else "-|>",
            mutation_scale=15,
            linestyle=(0, (1, 3)) if absent else "solid",
            linewidth=1.0 if absent else 1.8,
            color=colour,
            shrinkA=31,
            shrinkB=31,
            zorder=1,
        )
    )
    if not absent:
        x, y = LABEL_POSITION.get(edge, ((x0 + x1) / 2, (y0 + y1) / 2))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
        axes.text(x, y, label, ha="center", va="center", fontsize=10.5, color=colour, bbox=box, zorder=2)
