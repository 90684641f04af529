"""SVG figures of the report: accuracies with intervals, training curves, scatter plots of search candidates.

The figures are inline SVG without colours or fonts of their own: the page's style sheet sets both, for light and dark mode. The same
numbers give the same bytes. The XML writer escapes names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from markupsafe import Markup

from datafree.nas.search_result import MACS, Cost, pareto_front
from datafree.report import tables

ROW, HEAD, FOOT = 22.0, 26.0, 34.0  # heights in pixels: one row, the titles above the rows, the axis below them
LETTER = 6.6  # mean width of a letter in pixels, to size the name column
LONGEST_NAME = 50  # letters; a longer name is shortened, and its tooltip holds the whole name

Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """A linear scale from data values in [``low``, ``high``] to pixels in [``start``, ``end``]."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int) -> list[float]:
        """Round numbers within the axis, at most ``count`` + 1."""
        step = _round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


class Drawing:
    """An SVG picture of ``width`` by ``height`` pixels, to which shapes are added; ``title`` is the text for screen readers."""

    def __init__(self, width: float, height: float, title: str) -> None:
        size = f"0 0 {width:g} {height:g}"
        self.root = ElementTree.Element(
            "svg", {"viewBox": size, "role": "img", "aria-label": title, "style": f"min-width:{0.62 * width:g}px"}
        )

    def line(self, x0: float, y0: float, x1: float, y1: float, kind: str) -> None:
        ElementTree.SubElement(
            self.root, "line", {"x1": _number(x0), "y1": _number(y0), "x2": _number(x1), "y2": _number(y1), "class": kind}
        )

    def dot(self, x: float, y: float, radius: float, kind: str, tip: str = "", opacity: float = 1.0) -> None:
        shape = {"cx": _number(x), "cy": _number(y), "r": _number(radius), "class": kind}
        circle = ElementTree.SubElement(self.root, "circle", shape if opacity == 1 else {**shape, "opacity": f"{opacity:.2f}"})
        if tip:
            ElementTree.SubElement(circle, "title").text = tip

    def text(self, x: float, y: float, words: str, kind: str, tip: str = "") -> None:
        element = ElementTree.SubElement(self.root, "text", {"x": _number(x), "y": _number(y), "class": kind})
        element.text = words
        if tip:
            ElementTree.SubElement(element, "title").text = tip

    def path(self, points: Sequence[Point], kind: str) -> None:
        ElementTree.SubElement(self.root, "polyline", {"points": " ".join(f"{_number(x)},{_number(y)}" for x, y in points), "class": kind})

    def markup(self) -> Markup:
        return Markup(ElementTree.tostring(self.root, encoding="unicode"))


def accuracy_plot(results: tables.Results) -> Markup:
    """Accuracy plot: one line per table row, one panel per number of shots; mean, 95 % interval, means of the seeds, chance level."""
    names = tables.shots(results)
    groups = tables.groups(results)
    entries = sum(len(rows) for _, rows in groups)
    longest = max(len(row["name"]) for row in results["rows"])
    left, gap, width = 20 + LETTER * min(LONGEST_NAME, longest), 46.0, 960.0
    bottom = HEAD + ROW * entries + 10 * (len(groups) - 1)
    drawing = Drawing(width, bottom + FOOT, f"{tables.caption(results)}, mean and 95 % interval of every table row")
    panel = (width - left - 14 - gap * (len(names) - 1)) / len(names)
    axes = {shot: Axis(0, 100, left + index * (panel + gap), left + index * (panel + gap) + panel) for index, shot in enumerate(names)}
    for shot, axis in axes.items():
        drawing.text(axis.start, 14, f"{shot}-shot accuracy, %", "panel-title")
        for tick in axis.ticks(5):
            drawing.line(axis(tick), HEAD - 4, axis(tick), bottom + 2, "grid")
            drawing.text(axis(tick), bottom + 18, f"{tick:g}", "tick middle")
        drawing.line(axis(100 / results["way"]), HEAD - 4, axis(100 / results["way"]), bottom + 2, "chance")
        drawing.text(axis(100 / results["way"]), bottom + 31, "chance", "tick middle")
    y = HEAD + ROW / 2
    for _, rows in groups:
        for row in rows:
            drawing.text(left - 12, y + 4, _shortened(row["name"]), "name", row["name"])
            for shot, axis in axes.items():
                if shot in row["shots"]:
                    _draw_result(drawing, axis, y, row, shot)
            y += ROW
        y += 10
    return drawing.markup()


def _draw_result(drawing: Drawing, axis: Axis, y: float, row: tables.Row, shot: str) -> None:
    value = row["shots"][shot]
    for seed in value["per_seed"] if len(value["per_seed"]) > 1 else ():
        drawing.dot(axis(100 * seed["mean"]), y, 2.2, f"seed {row['kind']}")
    low, high = (100 * (value["mean"] + sign * value["interval"]) for sign in (-1, 1))
    drawing.line(axis(max(low, 0)), y, axis(min(high, 100)), y, f"interval {row['kind']}")
    score = tables.accuracy(value)
    drawing.dot(axis(100 * value["mean"]), y, 3.6, f"mean {row['kind']}", f"{row['name']}, {shot}-shot: {score} %")
    if value["mean"] + value["interval"] < 0.75:
        drawing.text(axis(high) + 9, y + 4, score, "tick score")
    else:
        drawing.text(axis(low) - 9, y + 4, score, "tick score end")


def curve_plot(title: str, curves: Sequence[Sequence[Point]]) -> Markup | None:
    """Small line plot by training step: each curve smoothed over a tenth of its length, drawn over its raw values.

    ``curves`` hold (step, value); values that are not finite are left out. None when no value is left.
    """
    finite = [[(x, y) for x, y in curve if math.isfinite(y)] for curve in curves]
    finite = [curve for curve in finite if curve]
    if not finite:
        return None
    drawing = Drawing(300, 176, f"{title} by step")
    points = [point for curve in finite for point in curve]
    across = Axis(*_range([x for x, _ in points], margin=0), 46, 290)
    up = Axis(*_range([y for _, y in points], margin=0.06), 146, 28)
    drawing.text(46, 14, title, "panel-title")
    for tick in up.ticks(4):
        drawing.line(46, up(tick), 290, up(tick), "grid")
        drawing.text(40, up(tick) + 4, f"{tick:.6g}", "tick end")
    for tick in across.ticks(4):
        drawing.text(across(tick), 162, f"{tick:.6g}", "tick middle")
    drawing.text(290, 174, "step", "tick end")
    for curve in finite:
        drawing.path([(across(x), up(y)) for x, y in curve], "raw")
    for curve in finite:
        drawing.path([(across(x), up(y)) for x, y in _smoothed(curve)], "curve")
    return drawing.markup()


def scatter_plot(points: Sequence[Point], result: Point | None, limit: float | None, score: str = "", cost: Cost = MACS) -> Markup | None:
    """Scatter plot of candidate architectures: x = cost, y = agreement with the teachers in %; later candidates are more opaque.

    ``points`` hold (cost, agreement in [0, 1]) in the order of scoring. ``result``, the search result, gets a ring; ``limit`` is the
    largest cost allowed; a line joins the Pareto front. If ``score`` names another measure, y shows its values unscaled. None without
    points.
    """
    if not points:
        return None
    factor, digits, unit = (1, ".4g", "") if score else (100, ".1f", " %")
    drawing = Drawing(460, 330, f"{score or 'agreement with the teachers'} against {cost.name}, all candidates")
    costs = [x / cost.divisor for x, _ in points] + ([limit / cost.divisor] if limit else [])
    across = Axis(*_range(costs, margin=0.05), 52, 448)
    up = Axis(*_range([factor * y for _, y in points], margin=0.08), 284, 16)
    for tick in up.ticks(5):
        drawing.line(52, up(tick), 448, up(tick), "grid")
        drawing.text(44, up(tick) + 4, f"{tick:.6g}", "tick end")
    for tick in across.ticks(6):
        drawing.text(across(tick), 302, f"{tick:.6g}", "tick middle")
    drawing.text(250, 322, cost.label, "tick middle")
    drawing.text(58, 12, score or "agreement with the teachers on held-out recovered images, %", "tick")
    if limit:
        drawing.line(across(limit / cost.divisor), 16, across(limit / cost.divisor), 284, "chance")
        drawing.text(across(limit / cost.divisor) - 6, 278, "limit", "tick end")
    drawing.path([(across(x / cost.divisor), up(factor * y)) for x, y in pareto_front(points)], "front")
    for index, (x, y) in enumerate(points):
        tip = f"{x / cost.divisor:.2f} {cost.unit}, {factor * y:{digits}}{unit}"
        drawing.dot(across(x / cost.divisor), up(factor * y), 3.6, "candidate", tip, 0.25 + 0.6 * (index + 1) / len(points))
    if result:
        tip = f"search result: {result[0] / cost.divisor:.2f} {cost.unit}, {factor * result[1]:{digits}}{unit}"
        drawing.dot(across(result[0] / cost.divisor), up(factor * result[1]), 7.5, "result", tip)
    return drawing.markup()


def _smoothed(curve: Sequence[Point]) -> Iterator[Point]:
    """Centred running mean over a tenth of the curve; the window is cut off at both ends."""
    reach = len(curve) // 20
    for index, (x, _) in enumerate(curve):
        window = [y for _, y in curve[max(0, index - reach) : index + reach + 1]]
        yield x, math.fsum(window) / len(window)


def _range(values: Sequence[float], margin: float) -> tuple[float, float]:
    """Lowest and highest value, with ``margin`` times the span added on either side; never an empty range."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    return low - margin * (high - low), high + margin * (high - low)


def _round_step(rough: float) -> float:
    """The smallest number of the form 1, 2 or 5 times a power of ten that is at least ``rough``."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def _number(value: float) -> str:
    return f"{value:.1f}"


def _shortened(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"
