"""Plot of all architectures that a search scored: score against multiply-adds and latency, with the Pareto front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from datafree.nas.drawing import to_image
from datafree.nas.search_result import COSTS, pareto_front


def draw_candidates(rows: Sequence[Mapping[str, float]], best: int) -> Image.Image:
    """Every scored architecture as an RGB picture: its score against multiply-adds and, where it was measured, latency.

    ``rows`` hold ``macs`` and ``score`` or, without one, ``agreement``, in the order of scoring: later ones are darker. The row at index
    ``best`` is ringed, and a line joins the Pareto front.
    """
    costs = {column: cost for column, cost in COSTS.items() if column in rows[0]}
    value, factor, title = ("score", 1, "score") if "score" in rows[0] else ("agreement", 100, "agreement with the teachers, %")
    figure = Figure(figsize=(5.6 * len(costs), 3.9), dpi=110, facecolor="white", layout="constrained")
    for axes, (column, cost) in zip(figure.subplots(1, len(costs), sharey=True, squeeze=False)[0], costs.items(), strict=True):
        points = [(row[column] / cost.divisor, factor * row[value]) for row in rows]
        x, y = zip(*points, strict=True)
        axes.plot(*zip(*pareto_front(points), strict=True), color="#b3402c", linewidth=1.4, label="Pareto front")
        axes.scatter(x, y, s=16, c="#1f6fb2", alpha=np.linspace(0.25, 0.9, len(points)), linewidths=0)
        axes.scatter(*points[best], s=90, facecolors="none", edgecolors="#2b3440", linewidths=1.6, label="search result")
        axes.set_xlabel(cost.label)
        axes.grid(alpha=0.25)
    figure.axes[0].set_ylabel(title)
    figure.axes[0].legend(frameon=False)
    return to_image(figure)
