"""The jobs of a shard in one process: each with its own record, log and failure, together or one by one, and after an error of CUDA."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from datafree import artifacts, devices
from datafree.errors import UserError
from datafree.registry import Registry
from datafree.workflow import locks, provenance, shards
from datafree.workflow.code import Source, SourceFile
from datafree.workflow.provenance import Job

SOURCE = Source({"stages/pretend.py": SourceFile("a", "a", ())})
REGISTRY = Registry({"x": "datafree.evaluation.intervals:mean_interval", "y": "datafree.evaluation.nearest_centroid:__name__"})


def members(seed: int = 0, arms: str = "xy", device: str | None = "cpu") -> list[Job]:
    """A shard: jobs that differ in a wildcard. Without a device, its process does not import PyTorch."""
    config = {"seed": seed} | ({"device": device} if device else {})
    return [
        Job(
            "pretend", {"arm": arm}, config, "c0de", {"data": "in/data", "all": [f"in/{arm}", "in/data"]},
            {name: f"out/{arm}/{name}" for name in ("first", "provenance")},
        )
        for arm in arms
    ]  # fmt: skip


def write(job: Job) -> None:
    artifacts.write_text(job.output("first"), f"{job.wildcards['arm']} of seed {job.config['seed']}")


def finished(jobs: list[Job]) -> list[bool]:
    return [not provenance.stale_reason(job, SOURCE) for job in jobs]


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A stage whose ``then`` gets each job after its output is written; ``ran`` lists the jobs that ran one by one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(shards.DEVICE_ERRORS, raising=False)
    monkeypatch.setattr(Source, "first_change", lambda self, modules: "")  # there is no such file
    monkeypatch.setattr(shards, "SHARDED", ("pretend",))
    for arm in ("data", *"xyz"):
        artifacts.write_text(f"in/{arm}", arm)
    module = types.ModuleType("datafree.stages.pretend")
    module.ran, module.then = [], lambda job: None

    def run(job: Job) -> None:
        module.ran.append(job.name)
        write(job)
        module.then(job)

    module.run = run
    monkeypatch.setitem(sys.modules, "datafree.stages.pretend", module)
    return module


def failing(arm: str, error: Exception) -> Callable[[Job], None]:
    def then(job: Job) -> None:
        if job.wildcards["arm"] == arm:
            raise error

    return then


# ---- one by one -------------------------------------------------------------------------------------------------------------------------


def test_the_jobs_of_a_shard_run_one_after_the_other_on_one_device(stage, monkeypatch):
    requested = []
    used = devices.use
    monkeypatch.setattr(devices, "use", lambda spec: requested.append(spec) or used(spec))
    shards.execute_all(members(), SOURCE)
    assert finished(members()) == [True, True]
    shards.execute_all(members(), SOURCE)
    assert len(stage.ran) == 2
    Path("out/y/first").unlink()
    shards.execute_all(members(), SOURCE)
    assert stage.ran == ["pretend/x", "pretend/y", "pretend/y"]
    shards.execute_all(members(seed=1)[:1], SOURCE)
    assert requested == ["cpu"] * 3  # for two jobs, for none, for one of two; the stage of a single job requests the device


def test_a_failure_in_a_shard_is_reported_and_the_others_run(stage, capsys):
    stage.then = failing("x", UserError("x is broken; fix it"))
    with pytest.raises(UserError, match="^x is broken; fix it$"):
        shards.execute_all(members(), SOURCE)
    assert "pretend/x: failed: x is broken; fix it" in capsys.readouterr().err
    assert finished(members()) == [False, True]


def test_every_error_is_one_line_of_the_process(stage, capsys):
    stage.then = lambda job: failing(job.wildcards["arm"], UserError(f"{job.name} is broken"))(job)
    with pytest.raises(UserError, match="^pretend/x is broken$"):
        shards.execute_all(members(), SOURCE)
    assert [line for line in capsys.readouterr().err.splitlines() if line.startswith("datafree:")] == ["datafree: pretend/y is broken"]


def test_each_job_has_a_log_of_its_own_and_the_process_has_all_lines(stage, capsys):
    stage.then = lambda job: print(f"loss of {job.name}", file=sys.stderr)
    shards.execute_all(members(), SOURCE)
    everything = capsys.readouterr().err
    for arm, other in ("xy", "yx"):
        text = Path(f"logs/pretend/{arm}.log").read_text()
        assert text.startswith(f"pretend/{arm}: computing") and f"loss of pretend/{arm}" in text and f"pretend/{other}" not in text
        assert text in everything


def test_an_unwritable_log_does_not_stop_a_job(stage):
    artifacts.write_text("logs/pretend", "a file, where there should be a folder")
    shards.execute_all(members(), SOURCE)
    assert finished(members()) == [True, True]


def test_a_record_does_not_depend_on_the_other_jobs_of_the_shard(stage):
    stage.then = lambda job: REGISTRY[job.wildcards["arm"]]
    shards.execute_all(members(), SOURCE)
    together = [Path(job.outputs["provenance"]).read_bytes() for job in members()]
    for job in reversed(members()):
        Path(job.outputs["provenance"]).unlink()
        shards.execute_all([job], SOURCE)
    assert [Path(job.outputs["provenance"]).read_bytes() for job in members()] == together
    assert b"datafree.evaluation.nearest_centroid" in together[1] and b"datafree.evaluation.nearest_centroid" not in together[0]


def test_a_lack_of_memory_on_the_gpu_is_one_line_and_the_others_run(stage):
    import torch

    stage.then = failing("x", torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    with pytest.raises(UserError, match="^pretend/x: not enough memory on the GPU; lower its batch size or `jobs_per_gpu`"):
        shards.execute_all(members(), SOURCE)
    assert finished(members()) == [False, True]


def test_a_fault_of_the_program_is_not_hidden(stage):
    stage.then = failing("x", RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        shards.execute_all(members(), SOURCE)


# ---- together ---------------------------------------------------------------------------------------------------------------------------


def test_a_stage_gets_all_jobs_that_are_not_up_to_date_at_once(stage, monkeypatch):
    batches, held = [], []

    def run_together(jobs):
        batches.append([job.name for job in jobs])
        held.append(len(locks.running_jobs()))
        time.sleep(0.1)
        for job in jobs:
            write(job)
            yield None

    shards.execute_all(members(arms="y"), SOURCE)
    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    start = time.monotonic()
    shards.execute_all(members(arms="zyx"), SOURCE)
    elapsed = time.monotonic() - start
    assert batches == [["pretend/z", "pretend/x"]]
    assert held == [2]
    assert stage.ran == ["pretend/y"]
    assert finished(members(arms="xyz")) == [True] * 3
    assert locks.running_jobs() == []
    timings = [artifacts.read_json(f"logs/timings/pretend/{arm}.json")["seconds"] for arm in "xz"]
    assert min(timings) >= 0.04 and sum(timings) <= elapsed + 0.01  # shares of the same time, rounded
    shards.execute_all(members(arms="zyx"), SOURCE)
    assert len(batches) == 1


def test_a_job_is_recorded_as_soon_as_it_has_a_result(stage, monkeypatch):
    def run_together(jobs):
        for job in jobs:
            write(job)
            yield None
            seen.append(finished(jobs))

    seen: list[list[bool]] = []
    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    shards.execute_all(members(), SOURCE)
    assert seen == [[True, False], [True, True]]


@pytest.mark.parametrize("error", [UserError("x is broken"), None])
def test_a_failure_among_jobs_that_run_together_is_that_of_one_job(stage, monkeypatch, error):
    def run_together(jobs):
        write(jobs[1])  # without an error, the output of the first is missing
        return [error, None]

    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    with pytest.raises(UserError, match="x is broken" if error else "^(pretend/x: )?out/x/first"):
        shards.execute_all(members(), SOURCE)
    assert finished(members()) == [False, True]
    assert stage.ran == []


def test_an_error_of_the_stage_is_that_of_all_jobs_without_a_result(stage, monkeypatch, capsys):
    def run_together(jobs):
        write(jobs[0])
        yield None
        raise UserError("no zoo")

    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    with pytest.raises(UserError, match="^no zoo$"):
        shards.execute_all(members(arms="xyz"), SOURCE)
    assert finished(members(arms="xyz")) == [True, False, False]
    assert "pretend/y: failed: no zoo" in capsys.readouterr().err
    assert stage.ran == []


def test_jobs_for_which_a_stage_yields_nothing_run_one_by_one(stage, monkeypatch):
    def run_together(jobs):
        write(jobs[0])
        REGISTRY["x"]
        return [None]

    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    shards.execute_all(members(arms="xyz"), SOURCE)
    assert stage.ran == ["pretend/y", "pretend/z"]
    assert finished(members(arms="xyz")) == [True] * 3
    modules = [provenance.read_record(job.outputs["provenance"])["code"]["modules"] for job in members()]
    assert modules == [["datafree.evaluation.intervals", "datafree.stages.pretend"], ["datafree.stages.pretend"]]


def test_jobs_that_need_too_much_memory_together_run_one_by_one(stage, monkeypatch):
    import torch

    def run_together(jobs):
        write(jobs[0])
        yield None
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(stage, "run_together", run_together, raising=False)
    shards.execute_all(members(arms="xyz"), SOURCE)
    assert stage.ran == ["pretend/y", "pretend/z"]
    assert finished(members(arms="xyz")) == [True] * 3


# ---- errors of CUDA ---------------------------------------------------------------------------------------------------------------------

# A program that executes a shard of the stand-in stage `pretend`, whose job fails as often as a file says.
PROGRAM = """
import os, sys, types
from pathlib import Path
from datafree import artifacts
from datafree.errors import exit_on_user_error
from datafree.workflow import shards
from datafree.workflow.code import Source
from tests.workflow.test_shards import SOURCE, members, write

def run(job):
    with open("ran", "a") as log:
        print(job.wildcards["arm"], os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid(), file=log)
    os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-of-a-lease"
    errors = Path(f"errors-{job.wildcards['arm']}")
    if left := int(errors.read_text()) if errors.exists() else 0:
        errors.write_text(str(left - 1))
        raise RuntimeError("CUDA error: an illegal memory access was encountered\\nMore lines")
    write(job)

stage = types.ModuleType("datafree.stages.pretend")
stage.run = run
if Path("together").exists():
    def run_together(jobs):
        for job in jobs:
            run(job)
            yield None
    stage.run_together = run_together
sys.modules["datafree.stages.pretend"] = stage
Source.first_change = lambda self, modules: ""
with exit_on_user_error("datafree"):
    shards.execute_all(members(arms="xyz", device=None), SOURCE)
"""


def run_program(errors: dict[str, int], together: bool = False) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    Path("program.py").write_text(PROGRAM)
    for arm, count in errors.items():
        Path(f"errors-{arm}").write_text(str(count))
    if together:
        Path("together").touch()
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'src'}", "CUDA_VISIBLE_DEVICES": "3,4"}
    done = subprocess.run([sys.executable, "program.py"], env=environment, capture_output=True, text=True, timeout=120, check=False)
    return done, [line.split() for line in Path("ran").read_text().splitlines()]


def test_the_process_starts_again_for_unfinished_jobs_after_an_error_of_cuda(stage):
    done, ran = run_program({"y": 1})
    assert done.returncode == 0, done.stderr
    assert [arm for arm, *_ in ran] == ["x", "y", "y", "z"]
    assert finished(members(arms="xyz", device=None)) == [True] * 3
    assert {pid for *_, pid in ran} == {ran[0][2]}  # the process that Snakemake started and `datafree stop` ends
    assert [visible for _, visible, _ in ran if visible != "GPU-of-a-lease"] == ["3,4", "3,4"]  # all GPUs, once per start
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("datafree:")]
    assert line.startswith("datafree: pretend/y: CUDA error: an illegal memory access was encountered; the process starts again")
    assert "Traceback" not in done.stderr


def test_a_job_that_was_running_at_two_errors_of_cuda_fails_and_the_others_are_finished(stage):
    done, ran = run_program({"y": 9})
    assert done.returncode == 2
    assert [arm for arm, *_ in ran] == ["x", "y", "y", "z"]
    assert finished(members(arms="xyz", device=None)) == [True, False, True]
    assert done.stderr.splitlines()[-1].startswith("datafree: pretend/y: the GPU failed twice while this job was running")
    assert "Traceback" not in done.stderr


def test_after_an_error_jobs_that_ran_together_run_one_by_one(stage):
    done, ran = run_program({"y": 2}, together=True)
    assert done.returncode == 2
    assert [arm for arm, *_ in ran] == ["x", "y", "y", "z"]  # together x and y, and after a start each y and z by itself
    assert finished(members(arms="xyz", device=None)) == [True, False, True]


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA error: unspecified launch failure", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)", False),
        ("", False),
    ],
)
def test_errors_that_leave_the_gpu_unusable(text, lost):
    import torch

    assert bool(devices.lost(RuntimeError(text))) == lost
    assert devices.lost(torch.AcceleratorError("device-side assert triggered\nmore")) == "device-side assert triggered"
    assert devices.lost(torch.OutOfMemoryError("CUDA out of memory")) == ""
