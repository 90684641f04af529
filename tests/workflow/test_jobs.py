import errno
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

from datafree import artifacts, devices
from datafree.errors import UserError
from datafree.workflow import jobs, provenance
from datafree.workflow.provenance import Job

OUTPUTS = {"first": "out/first", "second": "out/second", "provenance": "out/provenance.json"}


def a_job(stage="pretend", seed=0) -> Job:
    return Job(stage, {"arm": "x"}, {"seed": seed}, "c0de", {"data": "in/data"}, OUTPUTS)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A stage that writes both outputs and calls ``then`` between them; ``runs`` counts its runs."""
    monkeypatch.chdir(tmp_path)
    artifacts.write_text("in/data", "data")
    module = types.ModuleType("datafree.stages.pretend")
    module.runs = 0
    module.then = lambda: None

    def run(job):
        module.runs += 1
        assert not Path(job.outputs["provenance"]).exists() or provenance.stale_reason(job)
        artifacts.write_text(job.output("first"), f"first of seed {job.config['seed']}")
        module.then()
        artifacts.write_text(job.output("second"), "second")

    module.run = run
    monkeypatch.setitem(sys.modules, "datafree.stages.pretend", module)
    return module


def test_a_job_is_computed_and_recorded_once(stage, capsys):
    jobs.execute(a_job())
    assert "pretend/x: computing (no record)" in capsys.readouterr().err
    assert provenance.stale_reason(a_job()) == ""
    recorded = provenance.read_record("out/provenance.json")
    assert recorded["produced_with"].keys() == {"python", "torch", "machine"}
    before = Path("out/provenance.json").read_bytes()
    for path in OUTPUTS.values():
        os.utime(path, (1, 1))
    jobs.execute(a_job())
    assert stage.runs == 1
    assert "pretend/x: up to date" in capsys.readouterr().err
    assert Path("out/provenance.json").read_bytes() == before
    assert min(Path(path).stat().st_mtime for path in OUTPUTS.values()) > 1e9  # Snakemake compares modification times


def test_a_change_recomputes_the_job_and_logs_the_reason(stage, capsys):
    jobs.execute(a_job())
    jobs.execute(a_job(seed=1))
    assert "computing (parameter changed: seed)" in capsys.readouterr().err
    Path("in/data").write_text("other data")
    jobs.execute(a_job(seed=1))
    assert "computing (input changed: in/data)" in capsys.readouterr().err
    Path("out/first").write_text("broken")
    jobs.execute(a_job(seed=1))
    assert "computing (output missing or changed: out/first)" in capsys.readouterr().err
    assert stage.runs == 4
    assert Path("out/first").read_text() == "first of seed 1"


def test_timings_are_not_among_the_artifacts(stage):
    jobs.execute(a_job())
    timing = artifacts.read_json("logs/timings/pretend/x.json")
    assert timing.keys() >= {"seconds", "max_rss_mb"}
    assert timing["max_rss_mb"] > 0
    assert 0 <= timing["cpu_seconds"] < 0.9 * time.process_time()  # without the time that the process used before
    assert {path.name for path in Path("out").iterdir()} == {"first", "second", "provenance.json"}


def members(seed=0) -> list[Job]:
    """A shard: two jobs that differ in a wildcard, read from cards and shared paths."""
    for arm in "xy":
        artifacts.write_json(
            f"{arm}.json", {"stage": "pretend", "wildcards": {"arm": arm}, "config": {"seed": seed, "device": "cpu"}, "code": "c"}
        )
    outputs = {name: f"out/{{arm}}/{name}" for name in ("first", "second", "provenance")}
    return [provenance.read_job(Path(f"{arm}.json"), {"data": "in/data", "all": ["in/{arm}", "in/data"]}, outputs) for arm in "xy"]


def test_the_jobs_of_a_shard_run_one_after_the_other_on_one_device(stage, monkeypatch):
    for arm in "xy":
        artifacts.write_text(f"in/{arm}", arm)
    requested = []
    used = devices.use
    monkeypatch.setattr(devices, "use", lambda spec: requested.append(spec) or used(spec))
    shard = members()
    jobs.execute_all(shard)
    assert [job.outputs["first"] for job in shard] == ["out/x/first", "out/y/first"]
    assert [job.input_list("all")[0] for job in shard] == [Path("in/x"), Path("in/y")]
    assert [provenance.stale_reason(job) for job in shard] == ["", ""]
    jobs.execute_all(shard)
    assert stage.runs == 2
    Path("out/y/second").unlink()
    jobs.execute_all(shard)
    assert stage.runs == 3
    jobs.execute_all(members(seed=1)[:1])
    assert stage.runs == 4
    assert requested == ["cpu"] * 3  # for two jobs, for none, for one of two; the stage of a single job requests the device


def test_a_failure_in_a_shard_is_reported_and_the_others_run(stage, capsys):
    def fail_first():
        if stage.runs == 1:
            raise UserError("x is broken; fix it")

    stage.then = fail_first
    for arm in "xy":
        artifacts.write_text(f"in/{arm}", arm)
    shard = members()
    with pytest.raises(UserError, match="x is broken; fix it"):
        jobs.execute_all(shard)
    assert "datafree: x is broken; fix it" in capsys.readouterr().err
    assert [bool(provenance.stale_reason(job)) for job in shard] == [True, False]


def test_a_finished_job_imports_neither_its_stage_nor_pytorch(tmp_path):
    script = """
import sys
from datafree import artifacts, devices
from datafree.workflow import jobs
from datafree.workflow import provenance
artifacts.write_text("out/x", "x")
job = provenance.Job("no_such_stage", {}, {}, "c", {}, {"x": "out/x", "provenance": "out/provenance.json"})
provenance.write_record(job, {})
jobs.execute(job)
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)


def raise_(error):
    raise error


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "out/second"), "out/second: No space left on device"),
        (PermissionError(errno.EACCES, "Permission denied", "out/second"), "out/second: Permission denied"),
        (OSError("the disk went away"), "out/provenance.json: the disk went away"),
    ],
)
def test_a_file_error_is_one_line_and_finished_outputs_are_kept(stage, error, message):
    stage.then = lambda: raise_(error)
    with pytest.raises(UserError, match=f"^{message}; fix this and run again, finished work is kept$"):
        jobs.execute(a_job())
    assert Path("out/first").read_text() == "first of seed 0"
    assert not Path("out/provenance.json").exists()
    stage.then = lambda: None
    jobs.execute(a_job())
    assert provenance.stale_reason(a_job()) == ""


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(stage, full_disk):
    import torch

    stage.then = lambda: artifacts.write_tensors("out/second", {"x": torch.zeros(9999)})
    with full_disk(), pytest.raises(UserError, match="out/second.* fix this and run again") as caught:
        jobs.execute(a_job())
    assert "\n" not in str(caught.value)
    assert [path.name for path in Path("out").iterdir()] == ["first"]


@pytest.mark.parametrize("where", ["sha256", "utime"])
def test_unreadable_inputs_are_one_line(stage, monkeypatch, where):
    jobs.execute(a_job())
    denied = PermissionError(errno.EACCES, "Permission denied", "in/data")
    monkeypatch.setattr(provenance.os if where == "utime" else artifacts, where, lambda _: raise_(denied))
    with pytest.raises(UserError, match="^in/data: Permission denied; fix this"):
        jobs.execute(a_job())


def test_a_failure_during_a_second_run_makes_the_job_stale(stage):
    jobs.execute(a_job())
    stage.then = lambda: raise_(UserError("data.folder: nothing there"))
    with pytest.raises(UserError, match="^data.folder: nothing there$"):
        jobs.execute(a_job(seed=1))
    assert provenance.stale_reason(a_job(seed=1)) == "parameter changed: seed"
    assert provenance.stale_reason(a_job(seed=0)) == "output missing or changed: out/first"


def test_an_internal_error_is_not_a_user_error(stage):
    stage.then = lambda: raise_(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        jobs.execute(a_job())
    assert not Path("out/provenance.json").exists()


def test_a_stage_with_a_missing_output_is_not_recorded(stage, monkeypatch):
    monkeypatch.setattr(stage, "run", lambda job: artifacts.write_text(job.output("first"), "first"))
    with pytest.raises(UserError, match="out/second: the file is missing"):
        jobs.execute(a_job())
    assert not Path("out/provenance.json").exists()


def test_an_unwritable_job_log_does_not_stop_the_job(stage):
    Path("logs").mkdir()
    Path("logs/jobs.log").mkdir()  # opening it fails, as on a full disk
    jobs.execute(a_job())
    assert provenance.stale_reason(a_job()) == ""


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_the_final_evaluation_reads_the_test_classes(stage, monkeypatch, split):
    artifacts.write_text("artifacts/data/test.safetensors", "test images")
    monkeypatch.setitem(sys.modules, "datafree.stages.few_shot", stage)
    final = Job("few_shot", {}, {"seed": 0, "evaluation": {"split": split}}, "c0de", {"images": "artifacts/data/test.safetensors"}, OUTPUTS)
    if split == "test":
        jobs.execute(final)
        assert stage.runs == 1
    else:
        with pytest.raises(UserError, match="^few_shot: artifacts/data/test.safetensors is among its inputs, but only few_shot may read"):
            jobs.execute(final)
    other = Job("pretend", {}, final.config, "c0de", {"pools": ["in/data", "artifacts/data/test.safetensors"]}, {"provenance": "out/other"})
    with pytest.raises(UserError, match="^pretend: artifacts/data/test.safetensors is among its inputs"):
        jobs.execute(other)
    assert not Path("out/other").exists()


# ---- hardware ---------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("accepted", "expected"), [(True, "float32"), (False, "bfloat16")])
def test_a_stale_job_computes_on_the_hardware_of_this_run(stage, monkeypatch, accepted, expected):
    monkeypatch.setenv(provenance.CURRENT_HARDWARE, '{"device": "cpu", "processor": "x86_64 AVX2", "precision": "float32"}')
    card = {"seed": 0, "device": "cuda", "processor": "NVIDIA H100", "precision": "bfloat16"}
    job = Job("pretend", {"arm": "x"}, card, "c0de", {"data": "in/data"}, OUTPUTS, accepted)
    jobs.execute(job)
    assert provenance.read_record("out/provenance.json")["config"]["precision"] == expected
    assert provenance.stale_reason(job) == ""
    copied = Job("pretend", {"arm": "x"}, {"seed": 1}, "c0de", {"data": "in/data"}, OUTPUTS, accepted)
    jobs.execute(copied)
    assert provenance.read_record("out/provenance.json")["config"] == {"seed": 1}
