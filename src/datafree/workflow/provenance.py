"""Jobs, their records (``provenance.json``) and job cards: whether the outputs of a job are up to date.

Every job writes a record next to its outputs: the configuration keys that it read, a hash of its code, and the hashes of its inputs and
outputs. A job whose record still matches does not compute. So the staleness rules of Snakemake and DVC, which use timestamps, can neither
keep an old output under a new parameter nor repeat finished work. A record has no time, host or user: the same work gives the same bytes.

This module does not import PyTorch: Snakemake imports it at every start, and a job that is up to date never loads PyTorch.
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
HARDWARE = tuple(part.name for part in fields(Hardware))  # configuration keys that are added to every job that computes
OTHER_HARDWARE = "made with"  # prefix of the stale reason for results of other hardware
CURRENT_HARDWARE = "DATAFREE_HARDWARE"  # environment variable: hardware of this run as JSON, set by rules/common.smk
# Modules that the code hash leaves out, because they cannot change the outputs of a stage; configuration is compared by value.
NOT_HASHED = ("datafree.config", "datafree.errors", "datafree.progress", "datafree.workflow", "datafree.cli")


@dataclass(frozen=True)
class Job:
    """One unit of work: a stage, its wildcards, configuration, inputs and outputs.

    ``config`` maps the dotted keys that the job depends on, hardware included, to plain values. ``code`` is the stage's ``code_hash``.
    ``inputs`` and ``outputs`` map names to paths relative to the project folder; an input may be a list of paths.
    ``accept_other_hardware``: outputs that were computed on other hardware count as up to date.
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
        """Paths by name. Their order is kept, because the outputs can depend on it."""
        return {name: [value] if isinstance(value, str) else list(value) for name, value in self.inputs.items()}

    @property
    def computed_on(self) -> str:
        """Precision and processor as text, such as ``float32 on x86_64 AVX2``."""
        return f"{self.config['precision']} on {self.config['processor']}"

    def specification(self) -> dict[str, Any]:
        """Everything that determines the outputs, except the contents of the inputs."""
        return {"stage": self.stage, "wildcards": dict(self.wildcards), "config": dict(self.config), "code": self.code}


def stale_reason(job: Job) -> str:
    """Why the job must compute, in one phrase; empty if its outputs are up to date. Hashes all inputs and outputs.

    Raises:
        UserError: an input file is missing.
    """
    recorded = read_record(job.outputs["provenance"])
    if recorded is None:
        return "no record"
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
    """The first difference between a recorded and the wanted specification, in one phrase; empty if they are equal."""
    old, new = recorded.get("config", {}), wanted["config"]
    for key in sorted(set(old) | set(new), key=lambda key: (key in HARDWARE, key)):
        if _comparable(key, old.get(key)) == _comparable(key, new.get(key)) or (key in HARDWARE and accept_other_hardware):
            continue
        if key in HARDWARE and key in old and key in new:
            return f"{OTHER_HARDWARE} {key} {old[key]}, not {new[key]}"
        return f"parameter changed: {key}"
    if recorded.get("code") != wanted["code"]:
        return "code changed"
    if recorded.get("stage") != wanted["stage"] or recorded.get("wildcards") != wanted["wildcards"]:
        return "recorded for another job"
    return ""


def _comparable(key: str, value: Any) -> Any:
    """The value that is compared: for ``device`` without the GPU's number, as ``processor`` holds the model."""
    return value.partition(":")[0] if key == "device" and isinstance(value, str) else value


def upstream_changed(recorded: Mapping[str, Any]) -> str:
    """The first input whose producer recorded another hash since, in one phrase; empty if there is none. Hashes no file."""
    for path, digest in recorded.get("inputs", {}).items():
        producer = read_record(Path(path).parent / "provenance.json")
        if producer is not None and producer.get("outputs", {}).get(path, digest) != digest:
            return f"input changed: {path}"
    return ""


def changed_on_disk(recorded: Mapping[str, Any], wanted: Mapping[str, Any], accept_other_hardware: bool) -> str:
    """As ``stale_reason``, but from records and existing files alone: hashes no file."""
    missing = next((f"output missing: {path}" for path in recorded.get("outputs", {}) if not Path(path).is_file()), "")
    return specification_changed(recorded, wanted, accept_other_hardware) or upstream_changed(recorded) or missing


def write_record(job: Job, produced_with: Mapping[str, str]) -> None:
    """Write the record of a finished job, after all its outputs."""
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


def touch_outputs(job: Job) -> None:
    """Set the modification time of all outputs to now, because Snakemake compares modification times."""
    for path in job.outputs.values():
        os.utime(path)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """A record or job card; None if the file is missing or damaged."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    valid = isinstance(value, dict) and isinstance(value.get("stage"), str)
    valid = valid and all(isinstance(value.get(key), dict) for key in ("wildcards", "config"))
    valid = valid and all(isinstance(value.get(key, {}), dict) for key in ("inputs", "outputs"))
    return value if valid else None


def write_card(path: Path, job: Job) -> str:
    """Write the job card, an input file of the job, if the job must check its work again: Snakemake then runs the job.

    The card is written (newer than the outputs, with new content) exactly if its specification changed, or if the job's record has
    another specification, inputs that were recorded differently since, or missing outputs, as after a checkout. If other hardware is
    accepted, the card of a finished job keeps the hardware of the record.

    Returns why the finished outputs are stale, in one phrase; empty if they are not, or if there is no record.
    """
    card, accepted = read_record(path) or {}, job.accept_other_hardware
    recorded, stale = read_record(job.outputs["provenance"]), ""
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
        UserError: the file is missing or not a job card.
    """
    value = artifacts.read_json(card)
    missing = [key for key in ("stage", "wildcards", "config", "code") if not isinstance(value, dict) or key not in value]
    if missing:
        raise UserError(f"{card}: not a job card, `{missing[0]}` is missing; delete it and rerun snakemake")
    wildcards = value["wildcards"]
    filled_inputs = {
        name: [_fill_wildcards(part, wildcards) for part in path] if isinstance(path, list) else _fill_wildcards(path, wildcards)
        for name, path in inputs.items()
    }
    filled_outputs = {name: _fill_wildcards(path, wildcards) for name, path in outputs.items()}
    accepted = value.get("accept_other_hardware", False)
    return Job(value["stage"], wildcards, value["config"], value["code"], filled_inputs, filled_outputs, accepted)


def _fill_wildcards(path: str, wildcards: Mapping[str, str]) -> str:
    for name, value in wildcards.items():
        path = path.replace(f"{{{name}}}", value)
    return path


@functools.cache
def code_hash(module: str) -> str:
    """A hash, 16 hexadecimal digits, of a module and of all modules of this package that it imports, directly or indirectly.

    Without comments, docstrings and blank lines; with the templates and styles next to an imported module.
    """
    digest = hashlib.sha256()
    for path in code_files(module):
        digest.update(str(path.relative_to(PACKAGE)).encode())
        digest.update(_hashed_content(path))
    return digest.hexdigest()[:16]


@functools.cache
def _hashed_content(path: Path) -> bytes:
    text = path.read_text(encoding="utf-8")
    return (without_comments(text) if path.suffix == ".py" else text).encode()


@functools.cache
def code_files(module: str) -> tuple[Path, ...]:
    """The files that ``code_hash`` reads, sorted."""
    seen: set[Path] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _module_path(name)
        if path is None or path in seen or name == "datafree" or any(name == p or name.startswith(p + ".") for p in NOT_HASHED):
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
    """The modules, and names in modules, that a file imports, inside functions too, but not for the type checker alone."""
    names: list[str] = []
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        waiting.extend(ast.iter_child_nodes(node))
    return names


def without_comments(source: str) -> str:
    """Python source with comments, docstrings, blank lines and trailing spaces removed; other strings stay as they are."""
    lines = source.encode().split(b"\n")  # as the parser: columns in bytes, lines end at newlines only
    cuts: list[tuple[int, int, int, int]] = []  # first line, column, last line, column
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
