"""Jobs and their records (``provenance.json``): whether the outputs of a job are up to date.

Every job writes a record next to its outputs: the configuration that it read, by value, the modules of its code with their hash, and the
hashes of its inputs and outputs. A job whose record still matches does not compute. So the staleness rules of Snakemake and DVC, which use
time stamps, can neither keep an old output under a new parameter nor repeat finished work. A record has no time, host or user: the same
work gives the same bytes. Its size does not depend on the number of teachers: jobs that read many files have an index as their input.

This module does not import PyTorch: Snakemake imports it at every start, and a job that is up to date never loads PyTorch.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from datafree import artifacts
from datafree.errors import UserError
from datafree.workflow.code import Source
from datafree.workflow.hardware import Hardware

RECORD = "provenance.json"
HARDWARE = tuple(part.name for part in fields(Hardware))  # configuration keys that are added to every job that computes
OTHER_HARDWARE = "made with"  # prefix of the stale reason for results of other hardware


@dataclass(frozen=True)
class Job:
    """One unit of work: a stage, its wildcards, configuration, inputs and outputs.

    ``config`` maps the dotted keys that the job depends on, hardware included, to plain values. ``code`` identifies the code of the whole
    package: checkpoints are valid only with it. ``inputs`` and ``outputs`` map names to paths relative to the project folder; an input may
    be a list of paths. ``accept_other_hardware``: outputs that were computed on other hardware count as up to date.
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

    @property
    def module(self) -> str:
        return f"datafree.stages.{self.stage}"

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

    def result_paths(self) -> list[str]:
        """The outputs without the record."""
        return [path for name, path in self.outputs.items() if name != "provenance"]

    @property
    def computed_on(self) -> str:
        """Precision and processor as text, such as ``float32 on x86_64 AVX2``."""
        return f"{self.config['precision']} on {self.config['processor']}"

    def specification(self) -> dict[str, Any]:
        """Everything that determines the outputs, except code and the contents of the inputs."""
        return {"stage": self.stage, "wildcards": dict(self.wildcards), "config": dict(self.config)}


def stale_reason(job: Job, source: Source) -> str:
    """Why the job must compute, in one phrase; empty if its outputs are up to date. Hashes all inputs and outputs.

    Raises:
        UserError: an input file is missing.
    """
    recorded = read_record(job.outputs["provenance"])
    if recorded is None:
        return "no record"
    if reason := specification_changed(recorded, job, source):
        return reason
    if recorded.get("input_files") != job.input_files() or set(recorded.get("inputs", {})) != set(job.input_paths()):
        return "other input files"
    for path, digest in recorded.get("inputs", {}).items():
        if artifacts.sha256(path) != digest:
            return f"input changed: {path}"
    if set(recorded.get("outputs", {})) != set(job.result_paths()):
        return "other output files"
    for path, digest in recorded.get("outputs", {}).items():
        if not Path(path).is_file() or artifacts.sha256(path) != digest:
            return f"output missing or changed: {path}"
    return ""


def specification_changed(recorded: Mapping[str, Any], job: Job, source: Source) -> str:
    """The first difference between a record and a job in configuration or code, in one phrase; empty if they are equal."""
    old, new = recorded.get("config", {}), job.config
    for key in sorted(set(old) | set(new), key=lambda key: (key in HARDWARE, key)):
        if _comparable(key, old.get(key)) == _comparable(key, new.get(key)) or (key in HARDWARE and job.accept_other_hardware):
            continue
        if key in HARDWARE and key in old and key in new:
            return f"{OTHER_HARDWARE} {key} {old[key]}, not {new[key]}"
        return f"parameter changed: {key}"
    code = recorded.get("code")
    if not isinstance(code, dict) or not isinstance(code.get("modules"), list) or source.hash_of(code["modules"]) != code.get("hash"):
        return "code changed"
    if recorded.get("stage") != job.stage or recorded.get("wildcards") != dict(job.wildcards):
        return "recorded for another job"
    return ""


def _comparable(key: str, value: Any) -> Any:
    """The value that is compared: for ``device`` without the GPU's number, as ``processor`` holds the model."""
    return value.partition(":")[0] if key == "device" and isinstance(value, str) else value


class Records:
    """Records of a project folder and hashes of its indexes, each read once: what is known of the results without hashing them."""

    def __init__(self) -> None:
        self._records: dict[str, dict[str, Any] | None] = {}
        self._hashes: dict[str, str] = {}

    def of(self, path: str) -> dict[str, Any] | None:
        """The record at this path, None if it is missing or damaged."""
        if path not in self._records:
            self._records[path] = read_record(path)
        return self._records[path]

    def recorded_hash(self, path: str) -> str:
        """The hash of a file according to its producer's record, or that of an index, which has no record; empty if unknown."""
        if path.endswith("/index.json"):
            if path not in self._hashes:
                self._hashes[path] = artifacts.sha256(path) if Path(path).is_file() else ""
            return self._hashes[path]
        producer = self.of(f"{path.rpartition('/')[0]}/{RECORD}")
        return producer.get("outputs", {}).get(path, "") if producer else ""

    def stale_reason(self, job: Job, source: Source) -> str:
        """As ``stale_reason``, but from records and the existence of files; ``job`` needs its record as its only output."""
        recorded = self.of(job.outputs["provenance"])
        if recorded is None:
            return "not yet run"
        if reason := specification_changed(recorded, job, source):
            return reason
        for path, digest in recorded.get("inputs", {}).items():
            if self.recorded_hash(path) not in ("", digest):
                return f"input changed: {path}"
        return next((f"output missing: {path}" for path in recorded.get("outputs", {}) if not os.path.isfile(path)), "")  # noqa: PTH113


def write_record(job: Job, modules: list[str], source: Source, inputs: Mapping[str, str], produced_with: Mapping[str, str]) -> None:
    """Write the record of a finished job, after all its outputs.

    ``modules``: its stage's and those of the methods that it looked up. ``source``: the code that was planned and that this process
    loaded. ``inputs``: the hashes of its input files from before it computed. The hashes of the outputs are those of the bytes that this
    process wrote.

    Raises:
        UserError: an output was not written, or an input has changed since.
    """
    outputs = {}
    for path in job.result_paths():
        digest = artifacts.written_hash(path)
        if digest is None:
            raise UserError(f"{job.name}: {path} was not written; this is a fault of stage {job.stage}, please report it")
        if artifacts.sha256(path) != digest:
            raise UserError(f"{job.name}: {path} was changed by another process; run again")
        outputs[path] = digest
    for path, digest in inputs.items():
        if artifacts.sha256(path) != digest:
            raise UserError(f"{job.name}: {path} changed while the job was computing, so its result is not recorded; run again")
    artifacts.write_json(
        job.outputs["provenance"],
        {
            **job.specification(),
            "code": {"modules": sorted(modules), "hash": source.hash_of(modules)},
            "input_files": job.input_files(),
            "inputs": dict(inputs),
            "outputs": outputs,
            "produced_with": dict(produced_with),
        },
    )


def touch_outputs(job: Job) -> None:
    """Set the modification time of all outputs to now: Snakemake refuses outputs that are older than an input.

    Inputs from the future, as after a change of the clock, are dated now first.
    """
    date_inputs_now(job)
    for path in job.outputs.values():
        os.utime(path)


def date_inputs_now(job: Job) -> None:
    """Set the modification time of inputs that are dated in the future to now."""
    now = time.time()
    for path in job.input_paths():
        if os.stat(path).st_mtime > now:  # noqa: PTH116
            os.utime(path)


def read_record(path: str | Path) -> dict[str, Any] | None:
    """A record; None if the file is missing or damaged."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123
            value = json.load(file)
    except (OSError, ValueError):
        return None
    valid = isinstance(value, dict) and isinstance(value.get("stage"), str)
    valid = valid and all(isinstance(value.get(key), dict) for key in ("wildcards", "config"))
    valid = valid and all(isinstance(value.get(key, {}), dict) for key in ("inputs", "outputs"))
    return value if valid else None
