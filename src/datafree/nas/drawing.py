"""Pictures of an architecture, and of all that a search has scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch
from PIL import Image

from datafree.nas.search_result import COSTS, pareto_front
from datafree.nas.spaces import Genotype, Space
from datafree.zoo.genotypes.nasbench201 import EDGES

# No two edges cross: nodes 1 and 2 above each other, and the direct edge from input to output bent around below.
POSITION = {0: (0.0, 0.8), 1: (3.2, 2.0), 2: (3.2, 0.0), 3: (6.4, 0.8)}
NODE_NAME = {0: "input", 1: "1", 2: "2", 3: "output"}
BEND = {(0, 3): 0.6}  # height of an arc relative to the distance of its ends
LABEL_PLACE = {(0, 3): (3.2, -1.12)}  # other labels sit in the middle of their edge
RADIUS = 0.36
STYLE = {  # label and colour
    "none": ("none", "#b4bbc5"),
    "skip_connect": ("skip", "#5b6675"),
    "nor_conv_1x1": ("conv 1×1", "#1f6fb2"),
    "nor_conv_3x3": ("conv 3×3", "#b3402c"),
    "avg_pool_3x3": ("avg pool 3×3", "#2e7d4f"),
}


def draw_architecture(space: Space, genotype: Genotype) -> Image.Image:
    """An architecture as an RGB picture: a NAS-Bench-201 cell as a graph, another space's slots as a list."""
    return draw_cell(genotype) if space.name == "nasbench201" else draw_list(space.lines(genotype))


def draw_candidates(rows: Sequence[Mapping[str, float]], found: int) -> Image.Image:
    """Every scored architecture as an RGB picture: its score against multiply-adds and, where it was measured, latency.

    ``rows`` hold ``macs`` and ``agreement`` or another ``score``, in the order of scoring: later ones are darker. That at ``found`` is
    ringed, and a line joins the Pareto front.
    """
    costs = {column: cost for column, cost in COSTS.items() if column in rows[0]}
    value, factor, title = ("score", 1, "score") if "score" in rows[0] else ("agreement", 100, "agreement with the teachers, %")
    figure = Figure(figsize=(5.6 * len(costs), 3.9), dpi=110, facecolor="white", layout="constrained")
    canvas = FigureCanvasAgg(figure)
    for axes, (column, cost) in zip(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0], costs.items(), strict=True):
        points = [(row[column] / cost.divisor, factor * row[value]) for row in rows]
        x, y = zip(*points, strict=True)
        axes.plot(*zip(*pareto_front(points), strict=True), color="#b3402c", linewidth=1.4, label="Pareto front")
        axes.scatter(x, y, s=16, c="#1f6fb2", alpha=np.linspace(0.25, 0.9, len(points)), linewidths=0)
        axes.scatter(*points[found], s=90, facecolors="none", edgecolors="#2b3440", linewidths=1.6, label="found")
        axes.set_xlabel(cost.label)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(title)
    figure.axes[0].legend(frameon=False)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_list(lines: Sequence[str]) -> Image.Image:
    """Lines of text as an RGB picture, one below the other."""
    height = 0.6 + 0.28 * len(lines)
    figure = Figure(figsize=(7.4, height), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    for number, line in enumerate(lines):
        figure.text(0.05, 1 - (0.4 + 0.28 * number) / height, line, fontsize=11, color="#2b3440", va="center", family="monospace")
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def draw_cell(genotype: Genotype) -> Image.Image:
    """The cell as an RGB picture: four nodes, each edge an arrow labelled with its operation, ``none`` dotted and without a label."""
    figure = Figure(figsize=(7.4, 3.9), dpi=110, facecolor="white")
    canvas = FigureCanvasAgg(figure)
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
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _draw_edge(axes, edge: tuple[int, int], name: str) -> None:
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
        x, y = LABEL_PLACE.get(edge, ((x0 + x1) / 2, (y0 + y1) / 2))
        box = {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
        axes.text(x, y, label, ha="center", va="center", fontsize=10.5, color=colour, bbox=box, zorder=2)
