"""Project folders for the fault trials of ``faults.py``: copies, runs of the pipeline, their processes, and checks of the results.

Every process of a run carries a mark in its environment, so that processes which outlive Snakemake are found too.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

MARK = "DATAFREE_FAULT_TRIAL"
TIMEOUT = 1200  # seconds; a longer run counts as one that does not end
HASHED = ("artifacts", "results")
NOT_INHERITED = ("PYTEST", "COV", "DVC", "GIT", "MLFLOW", "SNAKEMAKE")
HEXADECIMAL = re.compile(r"[0-9a-f]{64}")
SYSTEM_ERRORS = ("No space left", "Read-only file system", "Permission denied", "disk is full", "readonly database", "not writable")


@dataclass(frozen=True)
class Reference:
    """The finished project that all trials start from and are compared with.

    ``empty``, ``finished``: the project folder before and after an undisturbed run. ``configfiles``: its settings, relative to the
    project. ``other_settings``: YAML file that changes them, outside the project. ``results``, ``other_results``: path to SHA-256 of
    every result of an undisturbed run with the settings, and with the other settings.
    """

    empty: Path
    finished: Path
    configfiles: tuple[str, ...]
    other_settings: Path
    results: Mapping[str, str]
    other_results: Mapping[str, str]
    cores: int = 2
    tracking: bool = True

    def wanted(self, other: bool) -> Mapping[str, str]:
        return self.other_results if other else self.results


class NotPossible(Exception):
    """This machine cannot produce the fault; the message is the reason."""


class Run:
    """A started command; its output goes to a file outside the project."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str], output: Path) -> None:
        self.command, self.output_file, self.started = list(command), output, time.time()
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_default_interrupts,
            )

    def wait(self, seconds: float) -> bool:
        """Wait up to ``seconds`` seconds; whether the command has ended."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(seconds, 0.01))
        return self.ended

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    @property
    def status(self) -> int | None:
        return self.process.poll()

    def output(self) -> str:
        return self.output_file.read_text(errors="replace")

    def last_line(self) -> str:
        """The last line of this package in the output, otherwise the last line."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()] or ["no output"]
        return next((line for line in reversed(lines) if line.startswith("datafree")), lines[-1])[:300]


def _default_interrupts() -> None:
    # Processes that a shell starts in the background ignore Ctrl-C, and their children inherit this.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Project:
    """The folder of one trial and what was found wrong in it.

    ``root``: an empty folder for the trial. ``problems``: one line for each deviation from the promised behaviour.
    """

    def __init__(self, root: Path, reference: Reference, name: str = "project") -> None:
        self.root, self.folder, self.reference = root, root / name, reference
        self.mark = uuid.uuid4().hex
        self.prefix: list[str] = []  # words before every command, such as those that limit its rights
        self.environment: dict[str, str] = {}
        self.problems: list[str] = []
        self.byte_equal = False
        self.outputs = 0

    def make(self, source: Path) -> None:
        """Copy a project into the folder, with modification times."""
        shutil.copytree(source, self.folder, symlinks=True, dirs_exist_ok=True)

    def make_unfinished(self, rng: random.Random, share: float, *always: str) -> None:
        """Copy the finished project without the outputs of about ``share`` of its jobs and of those whose folder starts with ``always``."""
        self.make(self.reference.finished)
        for record in sorted(self.folder.glob("artifacts/**/provenance.json")):
            folder = record.parent.relative_to(self.folder / "artifacts").as_posix()
            if rng.random() < share or folder.startswith(always):
                for path in [path for path in record.parent.iterdir() if path.is_file()]:
                    path.unlink()

    def start(self, *arguments: str, other: bool = False, command: str = "snakemake") -> Run:
        """Start Snakemake with the reference settings or the other settings, or another command with the arguments alone."""
        words = [command, *arguments]
        if command == "snakemake":
            files = [*self.reference.configfiles, *([str(self.reference.other_settings)] if other else [])]
            words += ["--cores", str(self.reference.cores), "--resources", f"gpu={self.reference.cores}", "--configfile", *files]
            words += ["--config", f"tracking={{enabled: {str(self.reference.tracking).lower()}}}"] if "--config" not in arguments else []
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
        environment = inherited | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", MARK: self.mark}
        environment |= {"PYTHONPATH": str(self.folder / "src"), **self.environment}
        self.outputs += 1
        return Run([*self.prefix, *words], self.folder, environment, self.root / f"output-{self.outputs}.txt")

    def run(self, *arguments: str, other: bool = False, command: str = "snakemake") -> Run:
        """As ``start``; waits for the end and checks the output."""
        run = self.start(*arguments, other=other, command=command)
        self.end(run)
        return run

    def end(self, run: Run, seconds: float = TIMEOUT) -> None:
        """Wait for a run and check its output; end it and note a problem if it takes longer than ``seconds`` seconds."""
        if not run.wait(seconds):
            self.problems.append(f"did not end within {seconds:.0f} s: {' '.join(run.command)}")
            self.kill_all()
        self.check(run)

    def check(self, run: Run) -> None:
        """Note tracebacks and demands for manual work in the output of an ended run and in the logs that its jobs wrote."""
        texts = {"output": run.output()}
        for log in (self.folder / "logs").rglob("*.log"):
            if log.stat().st_mtime >= run.started:
                texts[str(log.relative_to(self.folder))] = log.read_text(errors="replace")
        for name, text in texts.items():
            for found in re.finditer(r"^.*Traceback[^\n]*\n((?:[ \t|+][^\n]*\n|\n)*)([^\n]*)", text, re.MULTILINE):
                # Python prints one without our code if it is interrupted while it starts.
                if str(self.folder) in found[1] or "KeyboardInterrupt" not in found[2]:
                    self.problems.append(f"traceback in {name}: {found[2][:200]}")
                    break
        if "--unlock" in texts["output"]:
            self.problems.append("the user has to run `snakemake --unlock`")
            self.start("--unlock").wait(TIMEOUT)

    def refused(self, run: Run, *words: str) -> bool:
        """Whether a run ended with an error whose line, of this package or with one of the words, tells the reason."""
        lines = run.output().splitlines()
        named = [line for line in lines if line.startswith("datafree: ") or any(word in line for word in words)]
        return bool(run.status) and bool(named)

    def require_refusal(self, run: Run, *words: str) -> None:
        """Note a problem if a run failed without a line that tells the reason; a run that succeeded is right."""
        if run.status and not self.refused(run, *words):
            self.problems.append(f"status {run.status} without a reason: {run.last_line()}")

    def finish(self, *, other: bool = False, computes: bool = True) -> None:
        """One undisturbed run, after which the results must equal the reference, and the next run must have nothing to do.

        ``computes``: false if already this run must not compute anything.
        """
        self.wait_for_processes()
        before = len(self.computed())
        run = self.run(other=other)
        if run.status:
            self.problems.append(f"the undisturbed run ended with status {run.status}: {run.last_line()}")
        if len(self.computed()) > before and not computes:
            self.problems.append(f"computed again: {', '.join(self.computed()[before:])}")
        self.compare(other=other)
        self.problems += record_mismatches(self.folder)
        following = self.run("--dry-run", other=other)
        if "Nothing to be done" not in following.output():
            self.problems.append(f"the next run would do something: {following.last_line()}")

    def compare(self, *, other: bool = False) -> None:
        """Compare all results with those of the reference."""
        found = differences(results_of(self.folder), self.reference.wanted(other))
        self.byte_equal = not found
        if found:
            self.problems.append(found)

    def computed(self) -> list[str]:
        """Names of the jobs that have been computed in this folder, with repetitions."""
        return [line.split()[2].rstrip(":") for line in self.job_log() if ": computing" in line]

    def job_log(self) -> list[str]:
        path = self.folder / "logs/jobs.log"
        return path.read_text(errors="replace").splitlines() if path.is_file() else []

    def wait_for_job(self, run: Run, stage: str) -> None:
        """Wait until a job of the stage computes, or the run ends."""
        before = len(self.job_log())
        wait_until(lambda: run.ended or any(f" {stage}" in line and ": computing" in line for line in self.job_log()[before:]))

    def processes(self) -> list[psutil.Process]:
        """All living processes of this trial."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if _environment(process).get(MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def jobs(self) -> list[psutil.Process]:
        """The processes that compute: those without children, except Snakemake and MLflow tracking."""
        commands, parents = {}, set()
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                commands[process] = process.cmdline()
                parents.add(process.ppid())
        return [
            process
            for process, words in commands.items()
            if process.pid not in parents
            and "track" not in words
            and any("datafree" in word for word in words)
            and not any(Path(word).name == "snakemake" for word in words)
        ]

    def wait_for_processes(self, seconds: float = 300) -> None:
        """Wait until no process of the trial is left; end the rest and note a problem after ``seconds`` seconds."""
        if not wait_until(lambda: not self.processes(), seconds):
            names = "; ".join(" ".join(process.cmdline())[-80:] for process in self.processes())
            self.problems.append(f"processes still run after {seconds:.0f} s: {names}")
            self.kill_all()

    def kill_all(self) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def change_settings(self, change: Mapping[str, Any]) -> str:
        """Merge a mapping into the last settings file; returns the earlier text of the file."""
        import yaml

        path = self.folder / self.reference.configfiles[-1]
        text = path.read_text()
        path.write_text(yaml.safe_dump(_merged(yaml.safe_load(text), change), sort_keys=False))
        return text


def _merged(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    return {**old, **{key: _merged(old.get(key), value) for key, value in new.items()}}


def _environment(process: psutil.Process) -> dict[str, str]:
    """The environment of a process; read a second time if it is empty, as it is for a moment while a process starts its program."""
    found = process.environ()
    if not found and process.uids().real == os.getuid():
        time.sleep(0.01)
        found = process.environ()
    return found


def wait_until(condition: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
    """Wait until the condition holds, for at most ``seconds`` seconds; whether it holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def results_of(folder: Path) -> dict[str, str]:
    """SHA-256 of every file below ``artifacts`` and ``results``, by path relative to the project folder; left-over files included."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in HASHED
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }


def differences(found: Mapping[str, str], wanted: Mapping[str, str]) -> str:
    """The differences between two results, in one line; empty if they are equal."""
    kinds = {
        "missing": sorted(wanted.keys() - found.keys()),
        "not expected": sorted(found.keys() - wanted.keys()),
        "different": sorted(path for path in wanted.keys() & found.keys() if wanted[path] != found[path]),
    }
    return "; ".join(f"{len(paths)} {kind}: {', '.join(paths[:4])}" for kind, paths in kinds.items() if paths)


def record_mismatches(folder: Path) -> list[str]:
    """One line for every record (``provenance.json``) with a hash that is not that of the file on disk."""
    digests: dict[str, str] = {}
    found = []
    for record in sorted(folder.glob("artifacts/**/provenance.json")):
        try:
            recorded = list(_hashes(json.loads(record.read_text())))
        except ValueError:
            found.append(f"{record.relative_to(folder)}: not readable")
            continue
        for path, digest in recorded:
            if path not in digests:
                file = folder / path
                digests[path] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"
            if digests[path] != digest:
                found.append(f"{record.relative_to(folder)}: recorded another hash of {path}")
                break
    return found


def _hashes(value: Any) -> Iterator[tuple[str, str]]:
    """All (path in the project, SHA-256) pairs in a record."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(inner, str) and HEXADECIMAL.fullmatch(inner) and "/" in key:
                yield key, inner
            yield from _hashes(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _hashes(inner)
