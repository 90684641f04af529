"""Few-shot table of a finished run with the cost of each arm: Markdown, sorted by accuracy at the most shots.

    python benchmarks/study_table.py --run .

``--run`` is a folder in which the pipeline has run. CPU seconds are those of its jobs: *synthesis* of an arm's pools, over all teachers
and with the meta-generator if the method starts from it; *training* of one learner, the mean over the seeds. Both exclude Python's start.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import exit_on_user_error
from datafree.report.tables import accuracy, groups, shots

TIMINGS = Path("logs/timings")


def seconds(run: Path, stage: str, job: str) -> float:
    """CPU seconds of one finished job."""
    return artifacts.read_json(run / TIMINGS / stage / f"{job}.json", "cpu_seconds")["cpu_seconds"]


@functools.cache
def synthesis(run: Path, method: str) -> float:
    """CPU seconds of all pools of a method, and of the meta-generator if they start from it."""
    folders = sorted(path.parent for path in (run / "artifacts/inversion" / method).glob("*/provenance.json"))
    from_meta = any("generator" in artifacts.read_json(folder / "provenance.json", "inputs")["inputs"] for folder in folders)
    shared = seconds(run, "meta_generator", "meta_generator") if from_meta else 0.0
    return shared + sum(seconds(run, "invert", f"{method}.{folder.name}") for folder in folders)


def cosine(run: Path, arm: str, seeds: Sequence[int]) -> float | None:
    """Mean ``gradient_cosine`` of an arm's histories, without the first value, that of the untrained network; None if there is none."""
    curves = [artifacts.read_history(run / f"artifacts/meta/{arm}/seed{seed}/history.csv") for seed in seeds]
    values = [value for curve in curves for value in [row["gradient_cosine"] for row in curve if "gradient_cosine" in row][1:]]
    return sum(values) / len(values) if values else None


def line(run: Path, row: dict[str, Any], names: Sequence[str]) -> str:
    accuracies = [accuracy(row["shots"][shot]) for shot in names]
    pools, alignment, costs = "–", "", ["", ""]
    if row["kind"] == "arm":
        arm = row["name"].removesuffix(row["variant"]).strip()
        card = artifacts.read_json(run / f"artifacts/meta/{arm}/seed{row['seeds'][0]}/card.json", "inversion")
        pools, mean_cosine = card["inversion"], cosine(run, arm, row["seeds"])
        alignment = "" if mean_cosine is None else f"{mean_cosine:.3f}"
        training = [seconds(run, "learner", f"{arm}.{seed}") for seed in row["seeds"]]
        costs = [f"{synthesis(run, pools):.0f}", f"{sum(training) / len(training):.0f}"]
    return f"| {' | '.join([row['name'], pools, str(row['networks']), str(len(row['seeds'])), *accuracies, alignment, *costs])} |"


def table(run: Path) -> str:
    results = artifacts.read_json(run / "artifacts/evaluation/few_shot/results.json", "rows", "episodes")
    names = shots(results)
    header = ["", "pools", "networks", "seeds", *(f"{shot}-shot" for shot in names)]
    header += ["gradient cosine", "synthesis, CPU s", "training, CPU s"]
    lines = [f"| {' | '.join(header)} |", "|---|---|" + "---:|" * (len(header) - 2)]
    for title, rows in groups(results):
        lines.append(f"| **{title}** |" + " |" * (len(header) - 1))
        lines += [line(run, row, names) for row in sorted(rows, key=lambda row: -row["shots"][names[-1]]["mean"])]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path(), help="folder of a finished run")
    print(table(parser.parse_args(arguments).run), end="")


if __name__ == "__main__":
    with exit_on_user_error("study_table"):
        main()
