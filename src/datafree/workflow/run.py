"""A run as the rules see it: its plan, which jobs it must look at, and the command line of a job.

A rule has the start of this run as an input exactly if the record of its job does not match the plan. This file does not exist before the
run, so Snakemake runs the job, after the rule ``start``. Results that match have no such input, whatever their time stamps say.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from datafree import gpus
from datafree.config import resolve, text_nulls
from datafree.workflow import deals, indexes, locks
from datafree.workflow import plan as plans
from datafree.workflow.deals import SHARDED, Capacity
from datafree.workflow.file_hashes import FileHashes
from datafree.workflow.plan import Plan
from datafree.workflow.provenance import HARDWARE, OTHER_HARDWARE, Job, Records

ZOO = "artifacts/zoo/index.json"
SHARDS = Path(".datafree/shards")
PYTHON = shlex.quote(sys.executable).replace("{", "{{").replace("}", "}}")  # in shell commands of rules, which Snakemake formats


def pool_index(method: str) -> str:
    """The index of the pools of one inversion method."""
    return f"artifacts/inversion/{method}/index.json"


class Run:
    """One run of the pipeline. ``path``: the file of its plan. ``begun``: whether it exists, as in a process that the run started."""

    def __init__(self, plan: Plan, path: Path, begun: bool) -> None:
        self.plan, self.path, self.begun = plan, path, begun
        self._jobs = list(plan.jobs())
        self._records = Records()
        self._reasons: dict[str, str] = {}
        self._reported = False

    @classmethod
    def of_snakefile(cls, config: Mapping[str, Any], project: Path, processes: int, gpu_count: int | None) -> Run:
        """The run of this process, or that of the process that started it (``plan.VARIABLE``); writes nothing.

        ``processes``: jobs that run at the same time. ``gpu_count``: GPUs that they use; None = all GPUs of this machine.

        Raises:
            UserError: the configuration, the manifest, the data and the machine do not fit together.
        """
        if path := os.environ.get(plans.VARIABLE):
            return cls(Plan.read(Path(path)), Path(path), True)
        settings, path = resolve(text_nulls(dict(config))), plans.new_path()
        if notice := gpus.notice(settings.device):
            print(f"datafree: {notice}", file=sys.stderr, flush=True)
        run = cls(plans.make_plan(settings, project), path, False)
        if gpu_count is None:
            gpu_count = len(gpus.require(settings.device))
        run.plan = dataclasses.replace(run.plan, shards=run.deal(Capacity(processes, gpu_count * settings.jobs_per_gpu)))
        os.environ[plans.VARIABLE] = str(path)
        return run

    def begin(self) -> None:
        """Lock the project folder and write the plan: the first thing that a run writes.

        Raises:
            UserError: another run holds the lock.
        """
        if self.begun:
            return
        locks.hold_run_lock(" ".join(map(shlex.quote, sys.argv))[:200])
        if left := locks.running_jobs():
            message = f"still running after the end of their run: {', '.join(left)}; the same jobs wait for them, `datafree stop` ends them"
            print(f"datafree: {message}", file=sys.stderr, flush=True)
        self.plan.write(self.path)
        hashes = FileHashes.read()
        for teacher in self.plan.tree["teachers"].values():
            if teacher["file"]:
                hashes.of(teacher["file"])
        hashes.write()

    def deal(self, capacity: Capacity) -> dict[str, deals.Shards]:
        """The shards of this run, by stage. Those of the last run remain up to the first stage of which a job must be looked at: the files
        of their shards exist, so a run with another number of processes does nothing that is done."""
        shards: dict[str, deals.Shards] = {}
        new = False
        for stage in plans.STAGES:
            jobs = [job for job in self._jobs if job.stage == stage]
            new = new or any(map(self.stale, jobs))
            if stage == "retrain":
                shards[stage] = shards["search"]  # so the training of a result waits for the searches of its shard only
            elif stage in SHARDED:
                names, last = self.plan.wildcards_of(stage), self.plan.shards.get(stage, {})
                uses_gpu = any(str(job.config.get("device", "")).startswith("cuda") for job in jobs)
                if new or not deals.is_deal_of(last, self.plan.tree, stage, names):
                    last = deals.deal(self.plan.tree, stage, names, capacity.of(stage, uses_gpu))
                shards[stage] = last
        return shards

    # ---- staleness ----------------------------------------------------------------------------------------------------------------------

    def planned(self, stage: str) -> Callable[[Any], dict[str, str]]:
        """An input function: the start of the run, if a job of the stage must be looked at; a sharded stage has the wildcard ``shard``."""
        return lambda wildcards: self._plan_if(lambda: any(map(self.stale, self.jobs(stage, dict(wildcards.items())))))

    def planned_index(self, stage: str) -> Callable[[Any], dict[str, str]]:
        """As ``planned``, for the index of the results of a stage."""
        return lambda wildcards: self._plan_if(lambda: bool(self._index_changed(stage, dict(wildcards.items()))))

    def planned_target(self, *stages: str) -> dict[str, str]:
        """The start of the run, if any job or index of these stages must be looked at: Snakemake starts from the inputs of a target."""
        return self._plan_if(lambda: any(self.stale(job) for job in self._jobs if job.stage in stages) or self._any_index_changed(stages))

    def stale(self, job: Job) -> str:
        """Why a job must be looked at, in one phrase; empty if its record matches."""
        if job.name not in self._reasons:
            self._reasons[job.name] = self._records.stale_reason(job, self.plan.source)
            self._report_other_hardware(self._reasons[job.name])
        return self._reasons[job.name]

    def _plan_if(self, wanted: Callable[[], bool]) -> dict[str, str]:
        return {"start": str(self.path.with_suffix(plans.STARTED))} if self.begun or wanted() else {}

    def _any_index_changed(self, stages: Iterable[str]) -> bool:
        wildcards = {"teacher": [{}], "invert": [{"method": method} for method in self.plan.tree["methods"]]}
        return any(self._index_changed(stage, chosen) for stage in stages for chosen in wildcards.get(stage, []))

    def _index_changed(self, stage: str, wildcards: Mapping[str, str]) -> str:
        path = ZOO if stage == "teacher" else pool_index(wildcards["method"])
        jobs = [self.plan.job(stage, {**wildcards, "teacher": teacher}) for teacher in self.plan.teachers]
        return indexes.index_changed(path, jobs, self._records)

    def _report_other_hardware(self, reason: str) -> None:
        # Results that were pulled from another machine would otherwise be recomputed without a message. Printed once.
        if reason.startswith(OTHER_HARDWARE) and not self._reported:
            self._reported = True
            message = f"finished results were {reason}, and will be recomputed; --config accept_other_hardware=true keeps them"
            print(f"datafree: {message}", file=sys.stderr, flush=True)

    # ---- jobs ---------------------------------------------------------------------------------------------------------------------------

    def jobs(self, stage: str, wildcards: Mapping[str, str]) -> list[Job]:
        """The jobs of one process: those of the shard, or the one with these wildcards. Each has only its record as output."""
        if stage not in SHARDED:
            return [self.plan.job(stage, wildcards)]
        return [self.plan.job(stage, names) for names in self.plan.shards[stage][wildcards["shard"]]]

    def shard_files(self, stage: str, **wildcards: str) -> list[str]:
        """The files of the shards of a stage that hold a job with these wildcards: an input of whatever needs results of these jobs."""
        return [
            str(shard_file(stage, number))
            for number, members in self.plan.shards[stage].items()
            if any(wildcards.items() <= names.items() for names in members)
        ]

    def settings_of(self, stage: str) -> Callable[[Any], str]:
        """A function for ``params``: a hash of what the jobs read of the plan, without hardware, so that Snakemake notices changes too."""

        def settings(wildcards: Any) -> str:
            read = [{k: v for k, v in job.config.items() if k not in HARDWARE} for job in self.jobs(stage, dict(wildcards.items()))]
            return hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest()[:16]

        return settings


def shard_file(stage: str, number: str) -> Path:
    """The file that says that all jobs of a shard are done."""
    return SHARDS / f"{stage}.{number}.json"


def command(stage: str, **files: str | list[str]) -> Callable[..., str]:
    """A function for ``params``: stage, wildcards, inputs and outputs of a job, quoted for the shell.

    The inputs of the job are those of its rule, without ``start`` and without ``after``, files of shards that must be done before, and
    ``files``, results of jobs of those shards.
    """

    def quoted(wildcards: Any, input: Any, output: Any) -> str:
        words = [*(f"{name}={value}" for name, value in wildcards.items()), *_inputs(input, files)]
        words += [word for name, path in output.items() for word in ("-o", f"{name}={path}")]
        return " ".join(map(shlex.quote, [stage, *map(str, words)]))

    return quoted


def shard_command(stage: str, outputs: Mapping[str, str], inputs: Callable[[Any], Mapping[str, str]] = lambda _: {}) -> Callable[..., str]:
    """As ``command``, for the jobs of a shard: ``outputs`` and ``inputs``, a function of the rule's wildcards, are those of one job, with
    its own wildcards left open in braces.

    The inputs of the rule are common to its jobs. The output of the rule is the file of the shard.
    """

    def quoted(wildcards: Any, input: Any, output: Any) -> str:
        words = ["--shard", wildcards.shard, "--shard-file", str(output), *_inputs(input, inputs(wildcards))]
        words += [word for name, path in outputs.items() for word in ("-o", f"{name}={path}")]
        return " ".join(map(shlex.quote, [stage, *map(str, words)]))

    return quoted


def _inputs(of_rule: Any, further: Mapping[str, str | list[str]]) -> list[str]:
    files = {name: paths for name, paths in of_rule.items() if name not in ("start", "after")} | dict(further)
    listed = {name: [paths] if isinstance(paths, str) else paths for name, paths in files.items()}
    return [word for name, paths in listed.items() for path in paths for word in ("-i", f"{name}={path}")]
