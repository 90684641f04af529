import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from datafree import artifacts
from datafree.config import as_written, load
from datafree.workflow import provenance

PROJECT = Path(__file__).parent.parent


def datafree(folder, *arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "datafree.cli", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture
def card(tmp_path):
    artifacts.write_json(tmp_path / "card.json", {"stage": "images", "wildcards": {}, "config": {"seed": 0}, "code": "c", "written_ns": 1})
    return tmp_path / "card.json"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stage", "--job", "absent.json"], "absent.json: the file is missing"),
        (["stage", "--job", "text.yaml"], "text.yaml: not readable JSON"),
        (["stage", "--job", "card.json", "-i", "no-equals"], "got 'no-equals'; expected name=path"),
        (["stage", "--job", "card.json", "-o", "=path"], "got '=path'; expected name=path"),
        (["stage", "--job", "card.json"], "provenance"),
        (["config", "absent.yaml"], "configuration: cannot read absent.yaml"),
        (["config", "text.yaml"], "text.yaml: expected a mapping of sections"),
        (["config", "misspelt.yaml"], "tasks.shots: unknown key; did you mean `shot`?"),
        (["table"], "results.json: the file is missing"),
    ],
)
def test_a_mistake_is_one_line_on_standard_error_and_exit_status_2(tmp_path, card, arguments, message):
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


def test_the_default_is_the_params_file_of_the_folder(tmp_path):
    (tmp_path / "params.yaml").write_text("seed: 17")
    assert yaml.safe_load(datafree(tmp_path, "config").stdout)["seed"] == 17


def test_a_stage_is_given_its_files_by_name_and_repeated_names_are_lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b", "e", "out"):
        artifacts.write_text(name, name)
    job = provenance.Job("absent", {}, {"seed": 0}, "c", {"pools": ["a", "b"], "episodes": "e"}, {"x": "out", "provenance": "p.json"})
    provenance.write_record(job, {})
    artifacts.write_json("card.json", job.specification())
    files = ["-i", "pools=a", "-i", "episodes=e", "-i", "pools=b", "-o", "x=out", "-o", "provenance=p.json"]
    result = datafree(tmp_path, "stage", "--job", "card.json", *files)
    assert (result.returncode, result.stderr) == (0, "absent: up to date\n")
    result = datafree(tmp_path, "stage", "--job", "card.json", *files[2:])
    assert "absent: computing (other input files)" in result.stderr
    assert result.returncode == 1  # there is no such stage, which is no user's mistake


<<<<<<< HEAD
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
=======
def test_the_command_line_runs_as_a_module_of_any_python():
    done = subprocess.run(
        [sys.executable, "-m", "datafree", "stage", "--job"],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "requires an argument" in done.stderr
>>>>>>> main
