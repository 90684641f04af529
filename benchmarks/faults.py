"""Faults, counted: kills, full disks, damaged files, edits and second starts during runs of the smoke preset, with MLflow tracking.

    python benchmarks/faults.py faults.jsonl --folder /tmp/faults
    python benchmarks/faults.py faults.jsonl --only "kill,clock" --kills 20

Each trial disturbs a copy of the project. After one undisturbed run with status 0, every file below ``artifacts`` and ``results`` must
equal that of a run without a fault, every record must agree with the files on disk, nothing may be left to do, and no output may contain
a traceback. A line of JSON is appended for each trial; a trial that is in the file already is not repeated, so an interrupted call can be
continued. At the end a table is printed: survived / tried, and byte-equal at the end. Full disks need root.

The pipeline is that of this checkout. ``--folder`` keeps two finished reference projects; remove it after a change of the code.
"""

from __future__ import annotations

import argparse
import functools
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import fault_kinds as kinds
import fault_places as places
import yaml
from fault_project import NotPossible, Project, Reference, results_of

from datafree.errors import UserError, exit_on_user_error

ROOT = Path(__file__).parents[1]
PRESET = "presets/smoke.yaml"
OTHER_SETTINGS = {"evaluation": {"episodes": 24}, "meta": {"arms": {"bell": {"steps": 5}}}}
Trial = Callable[[Project, random.Random], str]


def _of(trial: Callable[..., str], *arguments: object, **options: object) -> Trial:
    return lambda project, rng: trial(project, rng, *arguments, **options)


# Name of the fault: (trial, number of trials).
KINDS: dict[str, tuple[Trial, int]] = {
    **{f"full disk: {where}": (_of(places.full_disk, where), 4) for where in ("artifacts", ".datafree", ".")},
    **{f"read-only: {where}": (_of(places.read_only, where), 2) for where in ("artifacts", ".datafree", "logs", ".snakemake", ".")},
    "TMPDIR missing": (_of(places.environment, TMPDIR="/nowhere"), 2),
    "HOME cannot be written": (_of(places.environment, HOME="/proc/nowhere"), 2),
    "artifacts is a link": (places.linked_artifacts, 2),
    "git repository": (_of(places.git_repository, True), 1),
    "no git repository": (_of(places.git_repository, False), 1),
    "path with spaces and apostrophes": (_of(places.other_path, "a user's 'first' study"), 2),
    "path with shell characters": (_of(places.other_path, 'a $(touch PWNED) {teacher} "study"; &'), 2),
    "project moved": (places.moved, 3),
    **{
        f"{'record' if records else 'result'} {how}": (_of(kinds.damaged, how, records), 8)
        for records in (False, True)
        for how in ("flipped", "truncated", "deleted")
    },
    **{
        f"{where} {how}": (_of(kinds.bookkeeping, where, how), 3) for where in (".datafree", ".snakemake") for how in ("damaged", "deleted")
    },
    "code edited and restored": (kinds.edited_code, 8),
    "comment edited, files touched": (kinds.edited_comment, 3),
    "settings edited": (kinds.edited_settings, 5),
    "Snakemake killed, other settings next": (kinds.orphan, 5),
    "dry run with other settings": (_of(kinds.second_start, "--dry-run", other=True), 5),
    "second start, same settings": (_of(kinds.second_start, other=False), 5),
    "second start, other settings": (_of(kinds.second_start, other=True), 5),
    "clock: results 2 hours in the future": (_of(kinds.clocks, 2), 4),
    "clock: results 10 years in the past": (_of(kinds.clocks, -87600), 4),
    **{f"MLflow store {how}": (_of(kinds.mlflow_store, how), 3) for how in ("locked", "deleted", "damaged")},
    "precision mixed": (kinds.other_hardware, 4),
    "instruction set mixed": (_of(kinds.other_hardware, ONEDNN_MAX_CPU_ISA="SSE41"), 2),
}


def make_reference(folder: Path, cores: int) -> Reference:
    """Run the pipeline of this checkout undisturbed, then with the other settings too, or find these runs in the folder.

    Raises:
        UserError: a run failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    other = folder / "other.yaml"
    other.write_text(yaml.safe_dump(OTHER_SETTINGS))
    make = functools.partial(Reference, folder / "empty", folder / "finished", (PRESET,), other, cores=cores)
    saved = folder / "reference.json"
    if not saved.exists():
        for name in ("empty", "finished", "finished-other"):
            shutil.rmtree(folder / name, ignore_errors=True)
        copy_checkout(folder / "empty")
        results = []
        for name in ("finished", "finished-other"):
            project = Project(folder, make({}, {}), name)
            project.make(folder / ("empty" if name == "finished" else "finished"))
            try:
                run = project.run(other=name != "finished")
            finally:
                project.kill_all()
            if run.status or project.problems:
                raise UserError(f"the undisturbed run failed, see {run.output_file}: {run.last_line()}")
            results.append(results_of(project.folder))
        saved.write_text(json.dumps(results))
    return make(*json.loads(saved.read_text()))


def copy_checkout(folder: Path) -> None:
    """Copy the tracked files of this checkout, without tests, in their present state; jobs save a checkpoint at every step.

    Otherwise the short jobs of the preset would have none, and no restart would continue from one.
    """
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    checkpoints = folder / "src/datafree/checkpoints.py"
    text = checkpoints.read_text()
    if "seconds_between: float = 20.0" not in text:
        raise UserError(f"{checkpoints}: expected the default seconds_between of 20 s, to replace it by 0 s")
    checkpoints.write_text(text.replace("seconds_between: float = 20.0", "seconds_between: float = 0.0"))


def try_once(project: Project, trial: Trial, fault: str, seed: int) -> list[dict]:
    """One trial as a line of the file."""
    line = {"fault": fault, "seed": seed}
    try:
        point = trial(project, random.Random(f"{fault} {seed}"))
    except NotPossible as reason:
        return [line | {"skipped": str(reason)}]
    finally:
        project.kill_all()
    return [line | {"point": point, "survived": not project.problems, "byte_equal": project.byte_equal, "problems": project.problems}]


def try_kills(project: Project, seed: int, count: int) -> list[dict]:
    """Kills of one project as lines of the file."""
    try:
        made = kinds.kills(project, random.Random(f"kills {seed}"), count)
    finally:
        project.kill_all()
    if not made and project.problems:  # a run failed before the first kill
        made = [("kill: none", "", project.problems)]
    return [
        {"fault": kind, "seed": seed, "point": point, "survived": not problems, "byte_equal": project.byte_equal, "problems": problems}
        for kind, point, problems in made
    ]


def table(lines: Sequence[dict]) -> str:
    """The table of all trials in Markdown."""
    rows = ["| fault | survived / tried | byte-equal at the end |", "|---|---:|---:|"]
    names = list(dict.fromkeys(line["fault"] for line in lines))
    for name in sorted(names, key=lambda name: (not name.startswith("kill"), names.index(name))):
        tried = [line for line in lines if line["fault"] == name and "skipped" not in line]
        if tried:
            survived, equal = (sum(line[key] for line in tried) for key in ("survived", "byte_equal"))
            rows.append(f"| {name} | {survived} / {len(tried)} | {equal} |")
        else:
            reason = next(line["skipped"] for line in lines if line["fault"] == name)
            rows.append(f"| {name} | skipped: {reason} | |")
    tried = [line for line in lines if "skipped" not in line]
    rows.append(f"| all | {sum(line['survived'] for line in tried)} / {len(tried)} | {sum(line['byte_equal'] for line in tried)} |")
    return "\n".join(rows)


def read_lines(output: Path) -> list[dict]:
    return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="file of trials, JSON lines; continued if it exists")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/faults"), help="for the projects")
    parser.add_argument("--only", default="", help="parts of the names of the faults to try, separated by commas; `kill` for the kills")
    parser.add_argument("--kills", type=int, default=100, help="number of kills")
    parser.add_argument("--trials", type=int, help="at most this number of trials of every other fault")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="only print the table of the file")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # ends the processes of the trial and unmounts
    if not options.table:
        try_all(options)
    print(table(read_lines(options.output)))


def try_all(options: argparse.Namespace) -> None:
    reference = make_reference(options.folder, options.cores)
    parts = [part for part in options.only.split(",") if part]

    def selected(name: str) -> bool:
        return not parts or any(part in name for part in parts)

    def in_new_project(trial: Callable[[Project], list[dict]]) -> None:
        root = options.folder / "trial"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        started = time.monotonic()
        for line in trial(Project(root, reference)):
            print(line["fault"], line["seed"], line.get("problems") or line.get("skipped") or "survived", flush=True)
            with options.output.open("a") as file:
                file.write(json.dumps(line | {"seconds": round(time.monotonic() - started)}) + "\n")

    seed = 1 + max((line["seed"] for line in read_lines(options.output) if line["fault"].startswith("kill")), default=-1)
    while selected("kill"):
        missing = options.kills - sum(line["fault"].startswith("kill ") for line in read_lines(options.output))
        if missing <= 0:
            break
        in_new_project(functools.partial(try_kills, seed=seed, count=min(missing, kinds.KILLS_OF_A_RUN)))
        seed += 1
    for name, (trial, count) in KINDS.items():
        for seed in range(min(count, options.trials or count) if selected(name) else 0):
            if not any((line["fault"], line["seed"]) == (name, seed) for line in read_lines(options.output)):
                in_new_project(functools.partial(try_once, trial=trial, fault=name, seed=seed))


if __name__ == "__main__":
    with exit_on_user_error("faults"):
        main()
