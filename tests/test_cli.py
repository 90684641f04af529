import contextlib
import dataclasses
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from datafree import artifacts
from datafree.cli import app
from datafree.config import as_written, load
from datafree.errors import UserError
from datafree.workflow import provenance
from datafree.workflow.indexes import read_index
from datafree.workflow.plan import VARIABLE, make_plan

PROJECT = Path(__file__).parent.parent


def datafree(folder, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "datafree.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """The plan of a run in an empty folder, with one shard."""
    with contextlib.chdir(tmp_path_factory.mktemp("planned")):
        made = make_plan(load(PROJECT / "params.yaml", PROJECT / "presets/smoke.yaml"), PROJECT)
    return dataclasses.replace(made, shards={"teacher": {"0": [{"teacher": name} for name in made.teachers[1:]]}})


@pytest.fixture
def planned(tmp_path, monkeypatch, plan):
    """A folder with the plan of a run."""
    monkeypatch.chdir(tmp_path)
    plan.write(tmp_path / "plan.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "plan.json"))
    return plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "episodes"], "DATAFREE_PLAN is not set; jobs are started by snakemake"),
        (["config", "absent.yaml"], "configuration: cannot read absent.yaml"),
        (["config", "text.yaml"], "text.yaml: expected a mapping of sections"),
        (["config", "misspelt.yaml"], "tasks.shots: unknown key; did you mean `shot`?"),
        (["table"], "results.json: the file is missing"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_status_2(tmp_path, arguments, message):
    (tmp_path / "text.yaml").write_text("just text")
    (tmp_path / "misspelt.yaml").write_text("tasks: {shots: 5}")
    result = datafree(tmp_path, *arguments)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("datafree: ")
    assert message in result.stderr


def test_the_printed_configuration_loads_back_to_the_same(tmp_path):
    (tmp_path / "preset.yaml").write_text("tasks: {shot: 2}\nmeta: {arms: {bell: null}}\ninversion: {loss: {batch_norm: 0.00001}}\n")
    result = datafree(tmp_path, "config", PROJECT / "params.yaml", "preset.yaml")
    assert result.returncode == 0, result.stderr
    (tmp_path / "printed.yaml").write_text(result.stdout)
    assert load(tmp_path / "printed.yaml") == load(PROJECT / "params.yaml", tmp_path / "preset.yaml")
    assert yaml.safe_load(result.stdout) == as_written(load(tmp_path / "printed.yaml"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-i", "no-equals"], "got 'no-equals'; expected name=value"),
        (["-o", "=path"], "got '=path'; expected name=value"),
        (["-i", "zoo=e"], "expected one named provenance"),
    ],
)
def test_a_mistake_in_the_files_of_a_stage_is_one_line(tmp_path, planned, words, message):
    result = datafree(tmp_path, "stage", "episodes", "method=five", *words)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_the_default_is_the_params_file_of_the_folder(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 17")
    assert yaml.safe_load(datafree(tmp_path, "config").stdout)["seed"] == 17


def test_a_stage_is_given_its_files_by_name_and_repeated_names_are_lists(tmp_path, planned):
    for name in ("a", "b", "e", "out"):
        artifacts.write_text(name, name)
    files = ["-i", "pools=a", "-i", "zoo=e", "-i", "pools=b", "-o", "episodes=out", "-o", "provenance=p.json"]
    job = planned.job("episodes", {"method": "five"}, {"pools": ["a", "b"], "zoo": "e"}, {"episodes": "out", "provenance": "p.json"})
    inputs = {path: artifacts.sha256(path) for path in job.input_paths()}
    provenance.write_record(job, [job.module], planned.source, inputs, {})
    result = datafree(tmp_path, "stage", "episodes", "method=five", *files)
    assert (result.returncode, result.stderr) == (0, "episodes/five: up to date\n")
    result = datafree(tmp_path, "stage", "episodes", "method=five", *files[2:])
    assert "episodes/five: computing (other input files)" in result.stderr
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_a_shard_is_its_jobs_and_an_index_those_of_all_shards(tmp_path, planned):
    outputs = {"card": "artifacts/zoo/{teacher}/card.json", "provenance": "artifacts/zoo/{teacher}/provenance.json"}
    for teacher in planned.teachers:
        artifacts.write_text(f"artifacts/zoo/{teacher}/card.json", teacher)
        job = planned.job("teacher", {"teacher": teacher}, {}, outputs)
        provenance.write_record(job, [job.module], planned.source, {}, {})
    files = [word for name, path in outputs.items() for word in ("-o", f"{name}={path}")]
    result = datafree(tmp_path, "stage", "teacher", *files, "--shard", "0", "--shard-file", "0.json")
    assert result.stderr.splitlines() == [f"teacher/{teacher}: up to date" for teacher in planned.teachers[1:]]
    assert artifacts.read_json(tmp_path / "0.json") == {"jobs": planned.shards["teacher"]["0"]}
    assert datafree(tmp_path, "index", "zoo/index.json", "teacher").returncode == 0
    assert [member.name for member in read_index("zoo/index.json")] == planned.teachers


def test_stop_and_status_in_an_empty_folder(tmp_path, monkeypatch):
    result = datafree(tmp_path, "stop")
    assert (result.returncode, result.stderr) == (0, "nothing runs in this folder\n")
    result = datafree(PROJECT, "status", "params.yaml", "presets/smoke.yaml")
    assert result.returncode == 0
    assert "learner/bell/0" in result.stdout


LONG = "x" * 300


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "params.yaml", "--output", LONG],
        ["status", LONG],
        ["track", "--follow", LONG],
        ["zoo", "list", LONG],
        ["zoo", "add", LONG, "--name", "x"],
        ["card", LONG],
        ["export", LONG, "--output", "x.onnx"],
    ],
)
def test_a_path_that_is_too_long_is_one_line_of_every_command(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("seed: 17")
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UserError)
    assert "File name too long" in str(result.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def refused_by(monkeypatch, error: Exception):
    """The exception of a command for which writing a file fails with ``error``."""

    def refuse(*arguments):
        raise error

    monkeypatch.setattr("datafree.artifacts.write_text", refuse)
    return CliRunner().invoke(app, ["config", str(PROJECT / "params.yaml"), "--output", "out.yaml"]).exception


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "out.yaml"), "out.yaml: Permission denied; check"),
        (OSError(errno.EROFS, "Read-only file system", ".out.part", None, "out.yaml"), "out.yaml: Read-only file system; check"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device; check"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "Disk quota exceeded; check"),
    ],
)
def test_what_the_system_refuses_is_one_line(monkeypatch, error, message):
    refused = refused_by(monkeypatch, error)
    assert isinstance(refused, UserError)
    assert str(refused) == f"{message} the path, its permissions and the room on the disk"


@pytest.mark.parametrize("error", [ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), OSError("cannot write mode F")])
def test_an_error_that_is_about_no_path_and_no_disk_keeps_its_traceback(monkeypatch, error):
    assert refused_by(monkeypatch, error) is error


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, full_disk):
    monkeypatch.chdir(tmp_path)
    with full_disk():
        result = CliRunner().invoke(app, ["config", str(PROJECT / "params.yaml"), "--output", "out.yaml"])
    assert isinstance(result.exception, UserError)
    assert str(result.exception).startswith("File too large; check")
    assert not list(tmp_path.iterdir())


def printed_to(target: int) -> subprocess.CompletedProcess:
    """`datafree config` with another standard output."""
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    command = [sys.executable, "-m", "datafree", "config"]
    return subprocess.run(command, cwd=PROJECT, stdout=target, stderr=subprocess.PIPE, text=True, check=False, env=environment)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_standard_output_on_a_full_disk_is_one_line():
    with Path("/dev/full").open("w") as full:
        result = printed_to(full.fileno())
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("datafree: No space left on device; check")


def test_a_reader_that_stops_reading_is_no_mistake():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = printed_to(writer)
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr.strip()) == (1, "")


def interrupted_while_loading(tmp_path, **options) -> subprocess.CompletedProcess:
    """`python -m datafree config`, with a module that sends Ctrl-C to its own process when it is imported."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\nraise SystemExit(3)\n")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{PROJECT / 'src'}"}
    command = [sys.executable, "-m", "datafree", "config"]
    return subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment, **options)


def test_an_interrupt_while_the_modules_load_gives_no_traceback(tmp_path):
    done = interrupted_while_loading(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_an_ignored_interrupt_stays_ignored(tmp_path):
    assert interrupted_while_loading(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)).returncode == 3


def test_the_command_line_runs_as_a_module_of_any_python():
    done = subprocess.run(
        [sys.executable, "-m", "datafree", "stage", "episodes", "--shard"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "requires an argument" in done.stderr
