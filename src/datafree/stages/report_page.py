"""Stage ``report_page``: the report of the study as an HTML page, the few-shot table as text, and a summary as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import zip_longest
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.predict import comparison
from datafree.report import tables
from datafree.report.page import Architecture, Curve, Study, render
from datafree.stages.files.cards import read_cards
from datafree.workflow.indexes import read_index
from datafree.workflow.provenance import Job

FOLDER = "artifacts/report"
READS = ("seed", "backbone", "data", "zoo", "inversion", "tasks", "meta", "nas", "evaluation")
PREVIEWED = 4  # teachers whose recovered images are shown


def run(job: Job) -> None:
    """Inputs, all optional: ``zoo`` and ``pools``, the indexes of the teachers and, per method, of their pools; ``few_shot``;
    ``networks`` and ``times``; ``quality``, ``real_preview``, ``data_preview``, ``generator_history``; ``reliability``, one per method
    (<method>/reliability.json); ``histories`` (<arm>/seed<k>/history.csv); ``architectures``, ``drawings``, ``candidates`` and
    ``retrained``, one per algorithm in the same order.

    Outputs: ``page``, ``table``, ``summary``; for plots ``accuracies`` (one row per row of the table and number of shots) and ``curves``
    (one row per learner, logged step and metric).
    """
    few_shot, quality = (artifacts.read_json(job.input(name)) if name in job.inputs else None for name in ("few_shot", "quality"))
    real, data = (job.input(name).read_bytes() if name in job.inputs else None for name in ("real_preview", "data_preview"))
    study = Study(
        config=job.config,
        few_shot=few_shot,
        quality=quality,
        networks=comparison.read(job.input("networks"), job.input("times"))[0] if "networks" in job.inputs else (),
        cards=read_cards(job.input("zoo")) if "zoo" in job.inputs else [],
        reliability={path.parent.name: artifacts.read_json(path, "teachers", "not_judged") for path in job.input_list("reliability")},
        learner_curves=_learner_curves(job.input_list("histories")),
        generator_curve=artifacts.read_history(job.input("generator_history")) if "generator_history" in job.inputs else (),
        architectures=_architectures(job),
        sheets=_sheets(job.input_list("pools")),
        real_sheet=real,
        data_sheet=data,
    )
    artifacts.write_text(job.output("page"), render(study))
    table = tables.plain_table(few_shot) if few_shot else "no few-shot results yet\n"
    artifacts.write_text(
        job.output("table"), table + "".join(f"warning: {line}\n" for line in tables.reliability_warnings(study.reliability))
    )
    artifacts.write_json(job.output("summary"), _summary(study))
    artifacts.write_table(job.output("accuracies"), ("name", "kind", "accuracy", "interval"), _accuracies(few_shot))
    artifacts.write_table(job.output("curves"), ("learner", "step", "metric", "value"), _points(job.input_list("histories")))


def _accuracies(few_shot: Mapping[str, Any] | None) -> Iterator[tuple[str, str, float, float]]:
    for row in few_shot["rows"] if few_shot else ():
        for shot, result in row["shots"].items():
            yield f"{row['name']}, {shot}-shot", row["kind"], result["mean"], result["interval"]


def _points(paths: list[Path]) -> Iterator[tuple[str, int, str, float]]:
    """The points of training curves, from <arm>/seed<k>/history.csv."""
    for path in paths:
        for row in artifacts.read_history(path):
            step = int(row.pop("step"))
            yield from ((f"{path.parent.parent.name}, {path.parent.name}", step, metric, value) for metric, value in row.items())


def _learner_curves(paths: list[Path]) -> dict[str, list[Curve]]:
    """Training curves by arm, from <arm>/seed<k>/history.csv."""
    curves: dict[str, list[Curve]] = {}
    for path in paths:
        curves.setdefault(path.parent.parent.name, []).append(artifacts.read_history(path))
    return curves


def _sheets(indexes: list[Path]) -> dict[str, dict[str, bytes]]:
    """PNG contact sheets by teacher and method, from indexes of pools (<method>/index.json)."""
    sheets: dict[str, dict[str, bytes]] = {}
    for index in indexes:
        for member in read_index(index)[:PREVIEWED]:
            sheets.setdefault(member.name, {})[index.parent.name] = member.path("preview.png").read_bytes()
    return sheets


def _architectures(job: Job) -> list[Architecture]:
    results = [artifacts.read_json(path) for path in job.input_list("architectures")]
    drawings = [path.read_bytes() for path in job.input_list("drawings")]
    candidates = [artifacts.read_history(path) for path in job.input_list("candidates")]
    retrained = [artifacts.read_json(path) for path in job.input_list("retrained")]
    rows = zip_longest(results, drawings, candidates, retrained)
    return [Architecture(result, drawing, scored or (), metrics) for result, drawing, scored, metrics in rows]


def _summary(study: Study) -> dict[str, Any]:
    """The main numbers of the report by name, for comparisons between revisions."""
    rows: list[Mapping[str, Any]] = study.few_shot["rows"] if study.few_shot else []
    methods: list[Mapping[str, Any]] = study.quality["rows"] if study.quality else []
    return {
        "teachers": len(study.cards),
        "few_shot": {row["name"]: {f"{shot}-shot": value["mean"] for shot, value in row["shots"].items()} for row in rows},
        "inversion": {row["method"]: {name: value["mean"] for name, value in row["metrics"].items()} for row in methods},
        "gradient_cosine": {arm: last for arm, (_, last) in tables.gradient_agreement(study.learner_curves).items()},
        "architectures": {a.facts["algorithm"]: {key: a.facts[key] for key in ("macs", "parameters")} for a in study.architectures},
    }
