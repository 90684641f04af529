"""HTML report of a study: one self-contained file with all tables, figures, images and styles embedded.

The same study gives the same bytes. Names come from users and downloaded manifests, so the template escapes every value.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from datafree import __version__
from datafree.nas.search_result import COSTS
from datafree.predict.comparison import TEACHER
from datafree.report import plots, tables

Curve = Sequence[Mapping[str, float]]  # rows of a history file: `step` and one value per column

# Quality measures of recovered images in the order of the table columns: title, and factor and digits of the printed number.
MEASURES = {
    "transfer_accuracy": ("transfer accuracy, %", 100, 1),
    "transfer_confidence": ("transfer confidence, %", 100, 1),
    "within_class_ratio": ("within-class distance, relative to real images", 1, 2),
    "within_class_distance": ("within-class distance, grey levels", 1, 1),
    "teacher_accuracy": ("teacher's accuracy, %", 100, 1),
    "teacher_confidence": ("teacher's confidence, %", 100, 1),
}
# Titles of the training curves where the name of the column alone would not say what it is.
CURVES = {
    "cross_entropy": "cross-entropy",
    "batch_norm": "BatchNorm distance",
    "auxiliary_teachers": "BatchNorm distance, auxiliary teachers",
    "diversity": "diversity loss",
    "episode": "episode loss",
    "distillation": "distillation loss",
    "agreement": "agreement with the teachers",
}
TEACHERS_RANKED = 5  # teachers in the visible table of networks to use
TEACHERS_SHOWN = 2  # teachers whose recovered images are always visible; the others are in a collapsed block


@dataclass(frozen=True)
class Architecture:
    """One search result: ``facts`` (architecture.json), a drawing of the architecture as PNG, all scored candidates (rows with ``macs`` and
    ``agreement`` or ``score``), and the metrics after retraining the architecture outside the supernet."""

    facts: Mapping[str, Any]
    drawing: bytes | None = None
    candidates: Curve = ()
    retrained: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Study:
    """Everything that the page shows. A section without data shows a note instead.

    ``config``: resolved configuration sections, with ``device``, ``precision`` and ``processor`` as in ``datafree.workflow.hardware``.
    ``few_shot`` and ``quality``: contents of results.json and quality.json. ``networks``: rows as ``tables.networks_table`` takes them.
    ``cards``: the teachers' cards. ``reliability``: per inversion method, the content of reliability.json, its teachers in the order of the
    cards. ``learner_curves``: per arm, one curve per seed. ``sheets``: per teacher and method, a PNG of recovered images. ``real_sheet``: a
    PNG of real images of the first teacher's classes. ``data_sheet``: a PNG of the real data.
    """

    config: Mapping[str, Any]
    few_shot: Mapping[str, Any] | None = None
    quality: Mapping[str, Any] | None = None
    networks: Sequence[Mapping[str, Any]] = ()
    cards: Sequence[Mapping[str, Any]] = ()
    reliability: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    learner_curves: Mapping[str, Sequence[Curve]] = field(default_factory=dict)
    generator_curve: Curve = ()
    architectures: Sequence[Architecture] = ()
    sheets: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    real_sheet: bytes | None = None
    data_sheet: bytes | None = None


def render(study: Study) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("datafree", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": tables.accuracy, "magnitude": tables.magnitude, "png": _png}
    environment.globals |= {"episodes": tables.episodes}
    return environment.get_template("page.html").render(
        study=study,
        style=Markup(resources.files("datafree.report").joinpath("style.css").read_text(encoding="utf-8")),
        overview=_overview(study),
        networks=_networks(study.networks),
        results=_few_shot(study.few_shot) if study.few_shot and study.few_shot["rows"] else None,
        quality=_quality(study.quality) if study.quality and study.quality["rows"] else None,
        teachers_shown=TEACHERS_SHOWN,
        curves=_curve_groups(study),
        agreement=tables.gradient_agreement(study.learner_curves),
        searches=[(architecture, _scatters(architecture, study.config)) for architecture in study.architectures],
        zoo=_zoo(study),
        configuration=yaml.safe_dump(
            {key: value for key, value in study.config.items() if key != "processor"}, sort_keys=False, allow_unicode=True, width=100
        ),
        version=__version__,
    )


def _overview(study: Study) -> str:
    parts = []
    if study.cards:
        classes = {name for card in study.cards for name in card["classes"]}
        parts.append(f"{_counted(len(study.cards), 'teacher')}, {_counted(len(classes), 'distinct class', 'es')}")
    if study.learner_curves:
        seeds = max(len(curves) for curves in study.learner_curves.values())
        parts.append(f"{_counted(len(study.learner_curves), 'learner')}, {_counted(seeds, 'seed')} each")
    if study.architectures:
        parts.append(_counted(len(study.architectures), "architecture search", "es"))
    if study.few_shot:
        parts.append(f"{study.few_shot['way']}-way episodes on the {study.few_shot['split']} classes")
    return " · ".join(parts)


def _few_shot(results: tables.Results) -> dict[str, Any]:
    shots = tables.shots(results)
    arms = [row for row in results["rows"] if row["kind"] == "arm"]
    return {
        "caption": tables.caption(results),
        "shots": shots,
        "groups": tables.groups(results),
        "best": {shot: max((row["shots"][shot]["mean"] for row in arms if shot in row["shots"]), default=None) for shot in shots},
        "domains": tables.domain_table(results),
        "several_seeds": [row for row in results["rows"] if len(row["seeds"]) > 1],
        "sentences": tables.summary_sentences(results),
        "best_teachers": tables.best_teachers(results),
        "plot": plots.accuracy_plot(results),
        "query": results["query"],
        "episodes": results["episodes"],
        "chance": f"{100 / results['way']:.0f}",
        "way": results["way"],
        "split": results["split"],
        "best_teacher": any(row["name"].startswith("best teacher") for row in results["rows"]),
    }


def _networks(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The networks that can learn new classes: a table of learners, groups and the best teachers, and one of the other teachers."""
    names = tables.network_shots(rows)
    others = [row for row in rows if row["kind"] == TEACHER][TEACHERS_RANKED:]
    main = [row for row in rows if row not in others]
    shown = [[[row["name"], *tables.network_cells(row, names)] for row in part] for part in (main, others) if part]
    return {"shots": names, "tables": shown, "sentence": tables.network_sentence(rows) if rows else ""}


def _quality(quality: Mapping[str, Any]) -> dict[str, Any]:
    present = {name for row in quality["rows"] for name in row["metrics"]}
    names = [name for name in MEASURES if name in present] + sorted(present - set(MEASURES))
    titles = {name: MEASURES.get(name, (name.replace("_", " "), 1, 3)) for name in names}
    rows = [(row["method"], [_measured(row["metrics"].get(name), *titles[name][1:]) for name in names]) for row in quality["rows"]]
    counts = sorted({value["n"] for row in quality["rows"] for value in row["metrics"].values()})
    return {"titles": [(title, name.startswith("teacher_")) for name, (title, _, _) in titles.items()], "rows": rows, "counts": counts}


def _measured(value: Mapping[str, Any] | None, factor: float, digits: int) -> str:
    if value is None:
        return "–"
    return f"{factor * value['mean']:.{digits}f} ± {factor * value['interval']:.{digits}f}"


def _curve_groups(study: Study) -> list[tuple[str, int, list[Markup]]]:
    """For the meta-generator and for every arm: title, number of curves per panel, and one panel per column of the history."""
    named = {"Meta-generator": [study.generator_curve]} if study.generator_curve else {}
    named |= {f"Learner {arm}": list(curves) for arm, curves in study.learner_curves.items()}
    groups = []
    for title, curves in named.items():
        columns = list(dict.fromkeys(name for curve in curves for row in curve for name in row if name != "step"))
        panels = [
            plots.curve_plot(
                CURVES.get(name, name.replace("_", " ")), [[(row["step"], row[name]) for row in curve if name in row] for curve in curves]
            )
            for name in columns
        ]
        groups.append((title, len(curves), [panel for panel in panels if panel]))
    return groups


def _scatters(architecture: Architecture, config: Mapping[str, Any]) -> list[Markup]:
    """Scatter plots of the ranking value of all candidates against multiply-adds and, where measured, against latency."""
    facts = architecture.facts
    algorithm = config.get("nas", {}).get("algorithms", {}).get(facts["algorithm"], {})
    measure = "score" if "score" in facts else "agreement"
    default = f"mean rank of supernet and {algorithm['prior']}" if algorithm.get("prior") else "score"
    name = algorithm.get("proxy", default) if measure == "score" else ""
    plotted = []
    for column, cost in COSTS.items():
        points = [(row[column], row[measure]) for row in architecture.candidates if column in row and measure in row]
        result = (facts[column], facts[measure]) if column in facts and measure in facts else None
        plotted.append(plots.scatter_plot(points, result, algorithm.get(f"max_{column}"), name, cost))
    return [plot for plot in plotted if plot]


def _zoo(study: Study) -> dict[str, Any]:
    cards = study.cards
    measured = [card["accuracy"]["mean"] for card in cards if card["accuracy"]]
    mean = f"{100 * sum(measured) / len(measured):.1f}" if measured else None
    licences = sorted({card["licence"] for card in cards})
    reliability = {
        card["name"]: {method: content["teachers"][place] for method, content in study.reliability.items()}
        for place, card in enumerate(cards)
    }
    return {
        "cards": cards,
        "mean": mean,
        "measured": len(measured),
        "licences": licences,
        "reliability": reliability,
        "warnings": tables.reliability_warnings(study.reliability),
    }


def _png(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _counted(number: int, noun: str, plural: str = "s") -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"
