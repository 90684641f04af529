"""SVG figures: marks are at the positions of their values, names are escaped."""

import math
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datafree.nas.search_result import LATENCY, pareto_front
from datafree.report import plots


def elements(svg, tag, *kinds):
    return [e for e in ElementTree.fromstring(str(svg)).iter(tag) if set(kinds) <= set(e.get("class", "").split())]


@given(low=st.floats(-1e6, 1e6), span=st.floats(1e-3, 1e6), count=st.integers(2, 8))
def test_ticks_are_round_and_within(low, span, count):
    axis = plots.Axis(low, low + span, 0, 100)
    ticks = axis.ticks(count)
    assert len(ticks) <= count + 1
    assert all(low - 1e-6 * span <= tick <= low + span + 1e-6 * span for tick in ticks)
    if len(ticks) > 1:
        step = ticks[1] - ticks[0]
        leading = step / 10 ** math.floor(math.log10(step * (1 + 1e-6)))
        assert min(abs(leading - digit) for digit in (1, 2, 5)) < 1e-3
        assert len(ticks) >= span / step - 1


def test_axis_maps_its_ends():
    axis = plots.Axis(2, 4, 10, 110)
    assert (axis(2), axis(3), axis(4)) == (10, 60, 110)
    assert axis.ticks(2) == [2, 3, 4]


def test_accuracy_plot_places_every_result(results):
    svg = plots.accuracy_plot(results)
    means = elements(svg, "circle", "mean")
    assert len(means) == 2 * len(results["rows"])
    ticks = [float(e.get("x1")) for e in elements(svg, "line", "grid")]
    assert len(ticks) == 12  # 0, 20, ..., 100 in two panels
    for circle in means:
        name, _, rest = circle.find("title").text.partition(", ")
        shot = rest[0]
        row = next(row for row in results["rows"] if row["name"] == name)
        assert row["kind"] in circle.get("class").split()
        left, right = (ticks[0], ticks[5]) if shot == "1" else (ticks[6], ticks[11])
        assert float(circle.get("cx")) == pytest.approx(left + row["shots"][shot]["mean"] * (right - left), abs=0.11)
    intervals = elements(svg, "line", "interval")
    widths = [float(e.get("x2")) - float(e.get("x1")) for e in intervals]
    per_row = [2 * share * (ticks[5] - ticks[0]) for share in (0.008, 0.0061)]
    assert widths == pytest.approx(per_row * len(results["rows"]), abs=0.11)
    assert len(elements(svg, "circle", "seed", "arm")) == 2 * 2 * 3
    assert not elements(svg, "circle", "seed", "baseline")
    chance = [float(e.get("x1")) for e in elements(svg, "line", "chance")]
    assert chance == [ticks[1], ticks[7]]


def test_accuracy_plot_escapes_and_shortens_names(results):
    hostile = '</svg><script>alert("1")</script>' + "x" * 100
    results["rows"][1]["name"] = hostile
    svg = plots.accuracy_plot(results)
    assert "<script" not in svg
    assert hostile in [e.text for e in elements(svg, "title")]
    (shown,) = [e.text for e in elements(svg, "text", "name") if e.text.startswith("</svg>")]
    assert len(shown) == plots.LONGEST_NAME
    assert shown.endswith("…")


def test_a_missing_shot_has_no_mark(results):
    del results["rows"][2]["shots"]["5"]
    assert len(elements(plots.accuracy_plot(results), "circle", "mean")) == 2 * len(results["rows"]) - 1


def test_an_interval_stays_within_the_axis(results):
    results["rows"][1]["shots"]["1"] |= {"mean": 0.99, "interval": 0.3}
    results["rows"][1]["shots"]["5"] |= {"mean": 0.01, "interval": 0.3}
    svg = plots.accuracy_plot(results)
    ticks = [float(e.get("x1")) for e in elements(svg, "line", "grid")]
    for line in elements(svg, "line", "interval"):
        assert ticks[0] <= float(line.get("x1")) <= float(line.get("x2")) <= ticks[11]


def points(element):
    return [tuple(map(float, pair.split(","))) for pair in element.get("points").split()]


def test_curve_plot_draws_every_curve_raw_and_smoothed():
    falling = [(step, 100 - step) for step in range(101)]
    noisy = [(step, 50 + 10 * (-1) ** step) for step in range(101)]
    svg = plots.curve_plot("loss", [falling, noisy])
    raw, smooth = elements(svg, "polyline", "raw"), elements(svg, "polyline", "curve")
    assert len(raw) == len(smooth) == 2
    assert points(raw[0])[5:-5] == points(smooth[0])[5:-5]  # away from its ends, a straight line is its own running mean
    assert [x for x, _ in points(raw[0])] == [x for x, _ in points(smooth[0])]

    def height(curve):
        inner = [y for _, y in points(curve)[10:-10]]
        return max(inner) - min(inner)

    assert height(smooth[1]) < height(raw[1]) / 5


def test_curve_plot_leaves_out_values_that_are_not_finite():
    svg = plots.curve_plot("loss", [[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)], [(0, math.nan)]])
    (raw,) = elements(svg, "polyline", "raw")
    assert len(points(raw)) == 2
    assert plots.curve_plot("loss", [[(0, math.nan)], []]) is None


@pytest.mark.parametrize("level", [0.0, 3.0, -2.0])
def test_a_constant_curve_is_drawn(level):
    svg = plots.curve_plot("loss", [[(1, level)]])
    ((x, y),) = points(elements(svg, "polyline", "raw")[0])
    assert 46 <= x <= 290
    assert 28 <= y <= 146


def test_the_pareto_front_holds_the_undominated_points():
    points = [(3.0, 0.5), (1.0, 0.2), (2.0, 0.6), (2.0, 0.4), (4.0, 0.9), (5.0, 0.9)]
    assert pareto_front(points) == [(1.0, 0.2), (2.0, 0.6), (4.0, 0.9)]
    (line,) = elements(plots.scatter_plot(points, None, None, "synflow"), "polyline", "front")
    assert len(line.get("points").split()) == 3
    assert "synflow against multiply-adds" in plots.scatter_plot(points, None, None, "synflow")


def test_scatter_plot_rings_the_search_result_and_marks_the_limit():
    candidates = [(2e6, 0.5), (4e6, 0.9), (8e6, 0.7)]
    svg = plots.scatter_plot(candidates, (4e6, 0.9), 9e6)
    dots = elements(svg, "circle", "candidate")
    assert [float(dot.get("opacity")) for dot in dots] == sorted(float(dot.get("opacity")) for dot in dots)
    across = [float(dot.get("cx")) for dot in dots]
    assert (across[2] - across[1]) == pytest.approx(2 * (across[1] - across[0]), abs=0.2)
    up = [float(dot.get("cy")) for dot in dots]
    assert up[1] < up[2] < up[0]
    (result,) = elements(svg, "circle", "result")
    assert (result.get("cx"), result.get("cy")) == (dots[1].get("cx"), dots[1].get("cy"))
    (limit,) = elements(svg, "line", "chance")
    assert float(limit.get("x1")) > across[2]
    bare = plots.scatter_plot(candidates, None, None)
    assert not elements(bare, "circle", "result")
    assert not elements(bare, "line", "chance")
    assert plots.scatter_plot([], None, None) is None


def test_scatter_plot_shows_latency_in_milliseconds():
    svg = plots.scatter_plot([(2.5, 0.5), (4.0, 0.9)], (4.0, 0.9), 5.0, cost=LATENCY)
    assert "against latency, all candidates" in svg
    assert "milliseconds for one image" in svg
    assert "search result: 4.00 ms, 90.0 %" in svg
