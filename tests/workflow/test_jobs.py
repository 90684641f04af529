import errno
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.registry import Registry
from datafree.workflow import hardware, jobs, provenance
from datafree.workflow.code import Source, SourceFile
from datafree.workflow.provenance import Job

OUTPUTS = {"first": "out/first", "second": "out/second", "provenance": "out/provenance.json"}


SOURCE = Source({"stages/pretend.py": SourceFile("a", "a", ())})


def execute(job):
    jobs.execute(job, SOURCE)


def stale_reason(job):
    return provenance.stale_reason(job, SOURCE)


def a_job(stage="pretend", seed=0) -> Job:
    return Job(stage, {"arm": "x"}, {"seed": seed}, "c0de", {"data": "in/data"}, OUTPUTS)


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """A stage that writes both outputs and calls ``then`` between them; ``runs`` counts its runs."""
    monkeypatch.chdir(tmp_path)
    artifacts.write_text("in/data", "data")
    monkeypatch.setattr(Source, "first_change", lambda self, modules: "")  # there is no such file
    module = types.ModuleType("datafree.stages.pretend")
    module.runs = 0
    module.then = lambda: None

    def run(job):
        module.runs += 1
        assert not Path(job.outputs["provenance"]).exists() or stale_reason(job)
        artifacts.write_text(job.output("first"), f"first of seed {job.config['seed']}")
        module.then()
        artifacts.write_text(job.output("second"), "second")

    module.run = run
    monkeypatch.setitem(sys.modules, "datafree.stages.pretend", module)
    return module


def test_a_job_is_computed_and_recorded_once(stage, capsys):
    execute(a_job())
    assert "pretend/x: computing (no record)" in capsys.readouterr().err
    assert stale_reason(a_job()) == ""
    recorded = provenance.read_record("out/provenance.json")
    assert recorded["produced_with"].keys() == {"python", "torch", "machine"}
    before = Path("out/provenance.json").read_bytes()
    for path in OUTPUTS.values():
        os.utime(path, (1, 1))
    execute(a_job())
    assert stage.runs == 1
    assert "pretend/x: up to date" in capsys.readouterr().err
    assert Path("out/provenance.json").read_bytes() == before
    assert min(Path(path).stat().st_mtime for path in OUTPUTS.values()) > 1e9  # Snakemake compares modification times


def test_a_change_recomputes_the_job_and_logs_the_reason(stage, capsys):
    execute(a_job())
    execute(a_job(seed=1))
    assert "computing (parameter changed: seed)" in capsys.readouterr().err
    Path("in/data").write_text("other data")
    execute(a_job(seed=1))
    assert "computing (input changed: in/data)" in capsys.readouterr().err
    Path("out/first").write_text("broken")
    execute(a_job(seed=1))
    assert "computing (output missing or changed: out/first)" in capsys.readouterr().err
    assert stage.runs == 4
    assert Path("out/first").read_text() == "first of seed 1"


def test_timings_are_not_among_the_artifacts(stage):
    execute(a_job())
    timing = artifacts.read_json("logs/timings/pretend/x.json")
    assert timing.keys() >= {"seconds", "max_rss_mb"}
    assert timing["max_rss_mb"] > 0
    assert 0 <= timing["cpu_seconds"] < 0.9 * time.process_time()  # without the time that the process used before
    assert {path.name for path in Path("out").iterdir()} == {"first", "second", "provenance.json"}


def test_a_finished_job_imports_neither_its_stage_nor_pytorch(tmp_path):
    script = """
import sys
from datafree import artifacts
from datafree.workflow import jobs
from datafree.workflow import provenance
from datafree.workflow.code import Source
artifacts.write_text("out/x", "x")
job = provenance.Job("no_such_stage", {}, {}, "c", {}, {"x": "out/x", "provenance": "out/provenance.json"})
provenance.write_record(job, [], Source({}), {}, {})
jobs.execute(job, Source({}))
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
        execute(a_job())
    assert Path("out/first").read_text() == "first of seed 0"
    assert not Path("out/provenance.json").exists()
    stage.then = lambda: None
    execute(a_job())
    assert stale_reason(a_job()) == ""


def test_a_full_disk_is_one_line_and_leaves_no_partial_file(stage, full_disk):
    import torch

    stage.then = lambda: artifacts.write_tensors("out/second", {"x": torch.zeros(9999)})
    with full_disk(), pytest.raises(UserError, match="out/second.* fix this and run again") as caught:
        execute(a_job())
    assert "\n" not in str(caught.value)
    assert [path.name for path in Path("out").iterdir()] == ["first"]


@pytest.mark.parametrize("where", ["sha256", "utime"])
def test_unreadable_inputs_are_one_line(stage, monkeypatch, where):
    execute(a_job())
    denied = PermissionError(errno.EACCES, "Permission denied", "in/data")
    monkeypatch.setattr(provenance.os if where == "utime" else artifacts, where, lambda _: raise_(denied))
    with pytest.raises(UserError, match="^in/data: Permission denied; fix this"):
        execute(a_job())


def test_a_failure_during_a_second_run_makes_the_job_stale(stage):
    execute(a_job())
    stage.then = lambda: raise_(UserError("data.folder: nothing there"))
    with pytest.raises(UserError, match="^data.folder: nothing there$"):
        execute(a_job(seed=1))
    assert stale_reason(a_job(seed=1)) == "parameter changed: seed"
    assert stale_reason(a_job(seed=0)) == "output missing or changed: out/first"


def test_an_internal_error_is_not_a_user_error(stage):
    stage.then = lambda: raise_(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        execute(a_job())
    assert not Path("out/provenance.json").exists()


def test_a_stage_with_a_missing_output_is_not_recorded(stage, monkeypatch):
    monkeypatch.setattr(stage, "run", lambda job: artifacts.write_text(job.output("first"), "first"))
    with pytest.raises(UserError, match="out/second"):
        execute(a_job())
    assert not Path("out/provenance.json").exists()


def test_an_unwritable_job_log_does_not_stop_the_job(stage):
    Path("logs").mkdir()
    Path("logs/jobs.log").mkdir()  # opening it fails, as on a full disk
    execute(a_job())
    assert stale_reason(a_job()) == ""


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_the_final_evaluation_reads_the_test_classes(stage, monkeypatch, split):
    artifacts.write_text("artifacts/data/test.safetensors", "test images")
    monkeypatch.setitem(sys.modules, "datafree.stages.few_shot", stage)
    final = Job("few_shot", {}, {"seed": 0, "evaluation": {"split": split}}, "c0de", {"images": "artifacts/data/test.safetensors"}, OUTPUTS)
    if split == "test":
        execute(final)
        assert stage.runs == 1
    else:
        with pytest.raises(UserError, match="^few_shot: artifacts/data/test.safetensors is among its inputs, but only few_shot may read"):
            execute(final)
    other = Job("pretend", {}, final.config, "c0de", {"pools": ["in/data", "artifacts/data/test.safetensors"]}, {"provenance": "out/other"})
    with pytest.raises(UserError, match="^pretend: artifacts/data/test.safetensors is among its inputs"):
        execute(other)
    assert not Path("out/other").exists()


# ---- code and other processes -----------------------------------------------------------------------------------------------------------


def test_code_that_was_edited_after_the_start_is_neither_run_nor_recorded(stage, monkeypatch):
    monkeypatch.setattr(Source, "first_change", lambda self, modules: "meta/bell.py")
    with pytest.raises(UserError, match=r"^pretend/x: src/datafree/meta/bell.py was edited after the run started, so nothing is recorded"):
        execute(a_job())
    assert stage.runs == 0


def test_code_that_the_stage_loads_while_it_runs_is_checked_before_it_is_recorded(stage, monkeypatch):
    changed = {"datafree.stages.pretend": ""}
    monkeypatch.setattr(Source, "first_change", lambda self, modules: next(filter(None, map(changed.get, modules)), ""))
    registry = Registry({"near": "datafree.evaluation.intervals:mean_interval"})
    changed["datafree.evaluation.intervals"] = "evaluation/intervals.py"
    stage.then = lambda: registry["near"]
    with pytest.raises(UserError, match="evaluation/intervals.py was edited after the run started"):
        execute(a_job())
    assert stage.runs == 1
    assert not Path("out/provenance.json").exists()


def test_a_record_names_the_modules_that_the_job_looked_up(stage):
    registry = Registry({"near": "datafree.evaluation.intervals:mean_interval"})
    stage.then = lambda: registry["near"]
    execute(a_job())
    assert provenance.read_record("out/provenance.json")["code"]["modules"] == ["datafree.evaluation.intervals", "datafree.stages.pretend"]


def test_two_processes_do_not_compute_one_job_at_the_same_time(stage, capsys):
    started, done = threading.Event(), threading.Event()
    stage.then = lambda: started.set() or done.wait(300)
    first = threading.Thread(target=execute, args=[a_job()])  # flock excludes descriptors, also those of one process
    first.start()
    assert started.wait(300)
    second = threading.Thread(target=execute, args=[a_job()])
    second.start()
    deadline = time.monotonic() + 300
    while "waiting for process" not in capsys.readouterr().err:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    done.set()
    first.join()
    second.join()
    assert stage.runs == 1  # the second finds the result of the first


# ---- hardware ---------------------------------------------------------------------------------------------------------------------------

PLANNED = {"device": "cpu", "processor": "x86_64 AMX", "precision": "float32"}
HERE = hardware.Hardware("cpu", "x86_64 AVX2", "float32")


@pytest.mark.parametrize("accepted", [True, False])
def test_a_job_computes_on_other_hardware_than_planned_only_if_that_is_accepted(stage, monkeypatch, accepted):
    monkeypatch.setattr(hardware, "of_this_machine", lambda device, precision: HERE)
    job = Job("pretend", {"arm": "x"}, {"seed": 0, **PLANNED}, "c0de", {"data": "in/data"}, OUTPUTS, accepted)
    if not accepted:
        with pytest.raises(UserError, match="pretend/x: this machine computes on .*AVX2.* but the run was planned for .*AMX"):
            execute(job)
        assert not Path("out").exists()
        return
    execute(job)
    assert provenance.read_record("out/provenance.json")["config"]["processor"] == "x86_64 AVX2"
    assert stale_reason(job) == ""


def test_a_copying_job_has_no_hardware(stage, monkeypatch):
    monkeypatch.setattr(hardware, "of_this_machine", None)
    execute(a_job())
    assert provenance.read_record("out/provenance.json")["config"] == {"seed": 0}
