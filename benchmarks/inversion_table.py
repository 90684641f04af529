"""Markdown tables of ``benchmarks/inversion_methods.py``: cost and quality, one line per method, means over teachers and seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from recovered_fraction import recovered_fraction

from datafree.evaluation.intervals import mean_interval

Cells = dict[str, list[dict[str, float]]]  # row → its measures, one dictionary per teacher and seed

QUALITY = {  # measure → (heading, factor, digits)
    "teacher_accuracy": ("teacher %", 100, 1),
    "judge_accuracy": ("judge %", 100, 1),
    "oracle_accuracy": ("oracle %", 100, 1),
    "jury_unanimous": ("both %", 100, 1),
    "jury_agreement": ("agree %", 100, 1),
    "within_class_ratio": ("distance", 1, 2),
    "frechet": ("Fréchet", 1, 1),
}


def of_seeds(results: dict[str, Any], seeds: Sequence[int]) -> dict[str, Any]:
    """The results of these seeds, and those of real images, which do not depend on a seed."""
    wanted = {str(seed) for seed in seeds}
    kept = {
        part: {key: value for key, value in results[part].items() if key.split("/")[1] in wanted or key.startswith("real/0/")}
        for part in ("cells", "generators", "downstream")
    }
    return {**results, **kept}


def table(results: dict[str, Any], order: Sequence[str], unit: str, reference: str) -> str:
    """Markdown: a table of cost and one of quality, with the rows of ``order`` that have results.

    Costs are means over teachers and seeds, also as multiples of the row ``unit``. Break-even: the number of teachers from which a
    meta-generator's training costs less than it saves against the row ``reference``. Intervals are half-widths of 95 % intervals: over
    teachers and seeds, for downstream accuracies over seeds.
    """
    cells, rows = _cells(results), [name for name in order if name in results["rows"]]
    shots = sorted({shot for result in results["downstream"].values() for shot in result["accuracy"]}, key=int)
    return "\n".join([*_cost_lines(results, rows, cells, unit, reference), "", *_quality_lines(results, rows, cells, shots), ""])


def _cells(results: dict[str, Any]) -> Cells:
    cells = defaultdict(list)
    for key, cell in results["cells"].items():
        cells[key.split("/")[0]].append(cell)
    return cells


def per_hundred(cell: dict[str, float], clock: str = "cpu_seconds") -> float:
    """Seconds for 100 images."""
    return 100 * cell[clock] / cell["images"]


def meta_cost(results: dict[str, Any], name: str) -> float | None:
    """CPU seconds of training a row's meta-generator, the mean over seeds; None for a row without one."""
    key = results["rows"][name]["generator"]
    costs = [cost["cpu_seconds"] for other, cost in results["generators"].items() if other.split("/")[0] == key]
    return sum(costs) / len(costs) if key and costs else None


def break_even(training: float, own: float, other: float) -> float | None:
    """Number of teachers from which ``training`` once plus ``own`` per teacher costs less than ``other`` per teacher; None = never."""
    return training / (other - own) if other > own else None


def _cost_lines(results: dict[str, Any], rows: list[str], cells: Cells, unit: str, reference: str) -> list[str]:
    means = {
        name: {clock: _mean([per_hundred(cell, clock) for cell in cells[name]]) for clock in ("cpu_seconds", "wall_seconds")}
        for name in rows
        if cells[name]
    }
    per_teacher = {name: _mean([cell["cpu_seconds"] for cell in cells[name]]) for name in means}
    heads = ["CPU s per 100 images", f"× {unit}", "wall s per 100 images", "meta-training, CPU s", f"paid back after, against {reference}"]
    lines = [f"| method | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name, mean in means.items():
        spread = mean_interval([per_hundred(cell) for cell in cells[name]])["interval"]
        ratio = f"{mean['cpu_seconds'] / means[unit]['cpu_seconds']:.1f}" if unit in means else ""
        training, paid = meta_cost(results, name), ""
        if training is not None and reference in per_teacher:
            teachers = break_even(training, per_teacher[name], per_teacher[reference])
            paid = "never" if teachers is None else f"{teachers:.1f} teachers"
        once = "" if training is None else f"{training:.0f}"
        lines.append(f"| {name} | {mean['cpu_seconds']:.2f} ± {spread:.2f} | {ratio} | {mean['wall_seconds']:.2f} | {once} | {paid} |")
    return lines


def _quality_lines(results: dict[str, Any], rows: list[str], cells: Cells, shots: list[str]) -> list[str]:
    shown = {key: value for key, value in QUALITY.items() if any(key in cell for row in cells.values() for cell in row)}
    heads = [heading for heading, _, _ in shown.values()]
    heads += [f"{shot}-shot %" for shot in shots] + [f"recovered {shot}-shot %" for shot in shots]
    lines = [f"| images | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for name in ("real", *rows, "noise"):
        line = []
        for key, (_, factor, digits) in shown.items():
            line.append(_interval([factor * cell[key] for cell in cells[name] if key in cell], digits))
        for shot in shots:
            line.append(_interval([100 * value for value in _accuracies(results, name, shot).values()], 1))
        for shot in shots:
            line.append(_interval([100 * value for value in _fractions(results, name, shot)], 0))
        lines.append(f"| {name} | {' | '.join(line)} |")
    return lines


def _accuracies(results: dict[str, Any], name: str, shot: str) -> dict[str, float]:
    """Accuracy in [0, 1] by seed."""
    entries = {key.split("/")[1]: value["accuracy"][shot] for key, value in results["downstream"].items() if key.split("/")[0] == name}
    return dict(sorted(entries.items()))


def _fractions(results: dict[str, Any], name: str, shot: str) -> list[float]:
    noise, real = _accuracies(results, "noise", shot), _accuracies(results, "real", shot)
    recovered = _accuracies(results, name, shot)
    return [recovered_fraction(noise[seed], recovered[seed], real[seed]) for seed in recovered if real[seed] > noise[seed]]


def _interval(values: list[float], digits: int) -> str:
    if not values:
        return ""
    summary = mean_interval(values)
    return f"{summary['mean']:.{digits}f}" + (f" ± {summary['interval']:.{digits}f}" if summary["n"] > 1 else "")


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
