"""What a job is, and how a job knows that its work is already done.

Every job leaves a sidecar, ``provenance.json``, beside its outputs: the configuration it read, a hash of the code that ran, and the
hashes of its inputs and outputs. A job whose sidecar still matches skips itself, so neither Snakemake's nor DVC's idea of staleness
can pair an old output with a new parameter, redo finished work, or be fooled by a timestamp. The sidecar holds no time, host or user:
the same work gives the same bytes.

This module imports nothing heavy: Snakemake reads it on every start, and a job that skips never loads PyTorch.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import io
import json
import os
import time
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow.hardware import Hardware

PACKAGE = Path(__file__).parents[1]
HARDWARE = tuple(part.name for part in fields(Hardware))  # keys of the configuration of every job that computes
OTHER_HARDWARE = "made with"  # how the reason begins for which a result of other hardware is stale
PRESENT_HARDWARE = "DATAFREE_HARDWARE"  # environment variable: the hardware of this run as JSON, set by the Snakefile
# Changes in these modules cannot change what a stage computes: configuration is compared by value, the rest only moves it around.
PLUMBING = ("datafree.config", "datafree.errors", "datafree.progress", "datafree.workflow", "datafree.cli")


@dataclass(frozen=True)
class Job:
    """One unit of work: a stage, the wildcards that select it, what it reads and what it leaves.

    ``config`` maps dotted keys of the configuration to plain values and holds just what the job depends on, the hardware included. An
    input that names several files is a list. Paths are relative to the project folder. ``accept_other_hardware``: finished outputs of
    other hardware are as good.
    """

    stage: str
    wildcards: Mapping[str, str]
    config: Mapping[str, Any]
    code: str
    inputs: Mapping[str, str | list[str]]
    outputs: Mapping[str, str]
    accept_other_hardware: bool = False

    @property
    def name(self) -> str:
        return "/".join([self.stage, *self.wildcards.values()])

    def input(self, name: str) -> Path:
        value = self.inputs[name]
        if isinstance(value, list):
            raise TypeError(f"{self.name}: input `{name}` names several files; use `input_list`")
        return Path(value)

    def input_list(self, name: str) -> list[Path]:
        value = self.inputs.get(name, [])
        return [Path(path) for path in ([value] if isinstance(value, str) else value)]

    def output(self, name: str) -> Path:
        return Path(self.outputs[name])

    def input_paths(self) -> Iterator[str]:
        for value in self.inputs.values():
            yield from [value] if isinstance(value, str) else value

    def input_files(self) -> dict[str, list[str]]:
        """Paths by name, in their order: what a job makes of its files can depend on which comes first."""
        return {name: [value] if isinstance(value, str) else list(value) for name, value in self.inputs.items()}

    @property
    def computed_on(self) -> str:
        """Precision and processor for readers, such as ``float32 on x86_64 AVX2``."""
        return f"{self.config['precision']} on {self.config['processor']}"

    def specification(self) -> dict[str, Any]:
        """What selects and shapes the work, input contents aside."""
        return {"stage": self.stage, "wildcards": dict(self.wildcards), "config": dict(self.config), "code": self.code}


def stale_because(job: Job) -> str:
    """Why the job must compute, in one phrase; empty when its outputs are exactly what it would make again."""
    recorded = read_sidecar(job.outputs["provenance"])
    if recorded is None:
        return "nothing recorded"
    if reason := specification_changed(recorded, job.specification(), job.accept_other_hardware):
        return reason
    if recorded.get("input_files") != job.input_files() or set(recorded.get("inputs", {})) != set(job.input_paths()):
        return "other input files"
    for path, digest in recorded.get("inputs", {}).items():
        if artifacts.sha256(path) != digest:
            return f"input changed: {path}"
    results = {path for name, path in job.outputs.items() if name != "provenance"}
    if set(recorded.get("outputs", {})) != results:
        return "other output files"
    for path, digest in recorded.get("outputs", {}).items():
        if not Path(path).is_file() or artifacts.sha256(path) != digest:
            return f"output missing or changed: {path}"
    return ""


def specification_changed(recorded: Mapping[str, Any], wanted: Mapping[str, Any], accept_other_hardware: bool) -> str:
    """Which part of a recorded specification differs from the wanted one, in one phrase; empty when none does."""
    before, after = recorded.get("config", {}), wanted["config"]
    for key in sorted(set(before) | set(after), key=lambda key: (key in HARDWARE, key)):
        if _comparable(key, before.get(key)) == _comparable(key, after.get(key)) or (key in HARDWARE and accept_other_hardware):
            continue
        if key in HARDWARE and key in before and key in after:
            return f"{OTHER_HARDWARE} {key} {before[key]}, not {after[key]}"
        return f"parameter changed: {key}"
    if recorded.get("code") != wanted["code"]:
        return "code changed"
    if recorded.get("stage") != wanted["stage"] or recorded.get("wildcards") != wanted["wildcards"]:
        return "recorded for another job"
    return ""


def _comparable(key: str, value: Any) -> Any:
    """A setting as it is compared: which of several equal GPUs a job got makes no difference, its model is the processor."""
    return value.partition(":")[0] if key == "device" and isinstance(value, str) else value


def upstream_changed(recorded: Mapping[str, Any]) -> str:
    """Whether a recorded input differs from what its own sidecar says now, without hashing any file; empty when none does."""
    for path, digest in recorded.get("inputs", {}).items():
        neighbour = read_sidecar(Path(path).parent / "provenance.json")
        if neighbour is not None and neighbour.get("outputs", {}).get(path, digest) != digest:
            return f"input changed: {path}"
    return ""


def changed_on_disk(recorded: Mapping[str, Any], wanted: Mapping[str, Any], accept_other_hardware: bool) -> str:
    """Why a recorded job must look at its work again, judged without hashing any file; empty when nothing tells against it."""
    missing = next((f"output missing: {path}" for path in recorded.get("outputs", {}) if not Path(path).is_file()), "")
    return specification_changed(recorded, wanted, accept_other_hardware) or upstream_changed(recorded) or missing


def record(job: Job, produced_with: Mapping[str, str]) -> None:
    """Write the sidecar, last of all: from here on the outputs count as done."""
    artifacts.write_json(
        job.outputs["provenance"],
        {
            **job.specification(),
            "input_files": job.input_files(),
            "inputs": {path: artifacts.sha256(path) for path in job.input_paths()},
            "outputs": {path: artifacts.sha256(path) for name, path in job.outputs.items() if name != "provenance"},
            "produced_with": dict(produced_with),
        },
    )


def mark_current(job: Job) -> None:
    """Give the outputs a fresh modification time, so that a scheduler which goes by time sees them as done."""
    for path in job.outputs.values():
        os.utime(path)


def read_sidecar(path: str | Path) -> dict[str, Any] | None:
    """A recorded sidecar, or None when there is none that can be read."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sound = isinstance(value, dict) and all(isinstance(value.get(key, {}), dict) for key in ("wildcards", "config", "inputs", "outputs"))
    return value if sound else None


def write_card(path: Path, job: Job) -> str:
    """Refresh the job card, the small file through which Snakemake learns that a job must look at its work again.

    The card is rewritten (and so is newer than the outputs, with other content) exactly when the specification differs from the
    card's, or when the sidecar on disk tells of another specification, of other inputs than there are now, or of outputs that are gone,
    as after a checkout. The card of a job that is done on other hardware keeps naming that where it is accepted.

    Returns why finished work is stale, in one phrase; empty where it is not, or where there is none.
    """
    card, accepted = read_sidecar(path) or {}, job.accept_other_hardware
    recorded, stale = read_sidecar(job.outputs["provenance"]), ""
    if recorded is None:
        changed = {key: card.get(key) for key in job.specification()} != job.specification()
    else:
        stale = changed_on_disk(recorded, job.specification(), accepted)
        changed = stale or specification_changed(card, job.specification(), accepted)
    if changed or card.get("accept_other_hardware") != accepted:
        artifacts.write_json(path, {**job.specification(), "accept_other_hardware": accepted, "written_ns": time.time_ns()})
    return stale


def read_job(card: Path, inputs: Mapping[str, str | list[str]], outputs: Mapping[str, str]) -> Job:
    """The job of a card; ``{name}`` in a path stands for the value of that wildcard.

    Raises:
        UserError: the card is missing or not one of ours.
    """
    value = artifacts.read_json(card)
    missing = [key for key in ("stage", "wildcards", "config", "code") if not isinstance(value, dict) or key not in value]
    if missing:
        raise UserError(f"{card}: not a job card, `{missing[0]}` is missing; delete it and rerun snakemake")
    wildcards = value["wildcards"]
    files = {
        name: [_filled(one, wildcards) for one in path] if isinstance(path, list) else _filled(path, wildcards)
        for name, path in inputs.items()
    }
    made = {name: _filled(path, wildcards) for name, path in outputs.items()}
    return Job(value["stage"], wildcards, value["config"], value["code"], files, made, value.get("accept_other_hardware", False))


def _filled(path: str, wildcards: Mapping[str, str]) -> str:
    for name, value in wildcards.items():
        path = path.replace(f"{{{name}}}", value)
    return path


@functools.cache
def code_hash(module: str) -> str:
    """A hash of a module and of all of this package that it imports, directly or not.

    Comments, docstrings and blank lines do not count. Resource files beside an imported module (templates, styles) do.
    """
    digest = hashlib.sha256()
    for path in code_files(module):
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(_meaning(path))
    return digest.hexdigest()[:16]


@functools.cache
def _meaning(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    return (without_comments(text) if path.suffix == ".py" else text).encode()


@functools.cache
def code_files(module: str) -> tuple[Path, ...]:
    """The files behind ``code_hash``, sorted."""
    seen: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if path is None or path in seen or name == "datafree" or any(name == p or name.startswith(p + ".") for p in PLUMBING):
            continue
        seen.add(path)
        seen.update(p for p in path.parent.iterdir() if p.suffix in (".html", ".css", ".js"))
        waiting.extend(_imports(path))
        parts = name.split(".")
        waiting.extend(".".join(parts[:end]) for end in range(2, len(parts)))
    return tuple(sorted(seen))


def _module_path(name: str) -> Path | None:
    if name != "datafree" and not name.startswith("datafree."):
        return None
    base = PACKAGE.joinpath(*name.split(".")[1:])
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


@functools.cache
def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def without_comments(source: str) -> str:
    """Python source with comments, docstrings, blank lines and trailing spaces removed; other strings stay as they are."""
    lines = source.encode().split(b"\n")  # the parser counts columns in bytes, and no other line ends
    cuts: list[tuple[int, int, int, int]] = []
    unfinished: set[int] = set()  # lines that end inside a string
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (first, start), (last, _) = token.start, token.end
        if token.type == tokenize.COMMENT:
            line = lines[first - 1]
            cuts.append((first, len(line.decode()[:start].encode()), first, len(line)))
        unfinished.update(range(first, last))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            cuts.append((text.lineno, text.col_offset, text.end_lineno, text.end_col_offset))
            unfinished.difference_update(range(text.lineno, text.end_lineno))
    for first, start, last, end in sorted(cuts, reverse=True):
        lines[first - 1 : last] = [lines[first - 1][:start] + lines[last - 1][end:]] + [b""] * (last - first)
    kept = [
        line if number in unfinished else line.rstrip()
        for number, line in enumerate(lines, start=1)
        if line.strip() or number in unfinished
    ]
    return b"\n".join(kept).decode()
