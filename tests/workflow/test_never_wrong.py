"""Whatever people do to the folder, a result on disk matches the parameters, the code and the inputs that it is recorded with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.workflow.conftest import Project

FEW_SHOT = "artifacts/evaluation/few_shot"


@pytest.fixture
def project(finished: Project, tmp_path: Path) -> Project:
    return finished.copy(tmp_path / "project")


def contents(project: Project) -> dict[str, bytes]:
    """All files of a project but those of Snakemake itself."""
    files = (path for path in project.folder.rglob("*") if path.is_file() and ".snakemake" not in path.parts and ".git" not in path.parts)
    return {str(path.relative_to(project.folder)): path.read_bytes() for path in files}


def records(project: Project) -> dict[str, dict]:
    return {
        str(path.relative_to(project.folder)): json.loads(path.read_text()) for path in project.folder.glob("artifacts/**/provenance.json")
    }


@contextmanager
def holding(project: Project, statement: str) -> Iterator[subprocess.Popen]:
    """A process that holds a lock of the folder."""
    script = f"import time\nfrom datafree.workflow import locks\nheld = {statement}\nprint('held', flush=True)\ntime.sleep(300)"
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src")}
    child = subprocess.Popen([sys.executable, "-c", script], cwd=project.folder, env=environment, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "held\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def last_plan(project: Project) -> Path:
    return max((project.folder / ".datafree/plans").glob("*.json"))


def run_few_shot(project: Project, inputs: dict[str, list[str]]) -> subprocess.CompletedProcess[str]:
    """The evaluation of the last run, as Snakemake starts it."""
    words = [f"-i{name}={path}" for name, paths in inputs.items() for path in paths]
    words += [f"-oresults={FEW_SHOT}/results.json", "-ometrics=results/metrics.json", f"-oprovenance={FEW_SHOT}/provenance.json"]
    environment = {**os.environ, "PYTHONPATH": str(project.folder / "src"), "DATAFREE_PLAN": str(last_plan(project))}
    command = [sys.executable, "-m", "datafree", "stage", "few_shot", *words]
    return subprocess.run(command, cwd=project.folder, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_code_that_is_edited_during_a_run_is_not_recorded_as_the_code_of_the_run(project: Project) -> None:
    project.change("evaluation.episodes", 21)
    inputs = records(project)[f"{FEW_SHOT}/provenance.json"]["input_files"]
    (project.folder / FEW_SHOT / "provenance.json").unlink()
    before = (project.folder / FEW_SHOT / "results.json").read_bytes()
    edited = project.folder / "src/datafree/evaluation/few_shot.py"
    text = edited.read_text()
    edited.write_text(f"{text}\nUNUSED = 0\n")  # after the start of the run, before its last job
    done = run_few_shot(project, inputs)
    assert done.returncode == 2
    assert "few_shot: src/datafree/evaluation/few_shot.py was edited after the run started, so nothing is recorded" in done.stderr
    assert not (project.folder / FEW_SHOT / "provenance.json").exists()
    assert (project.folder / FEW_SHOT / "results.json").read_bytes() == before
    edited.write_text(text.replace("\n", "\n# a comment\n", 1))
    done = run_few_shot(project, inputs)
    assert done.returncode == 0, done.stderr
    edited.write_text(text)
    assert records(project)[f"{FEW_SHOT}/provenance.json"]["config"]["evaluation"]["episodes"] == 20  # of the plan, not of the edited file
    assert project.snakemake("--", "evaluation") == {"few_shot", "networks"}


def test_a_dry_run_writes_nothing_and_an_up_to_date_run_only_its_logs(project: Project) -> None:
    before = contents(project)
    project.run("snakemake", "--dry-run", "--config", 'tasks={"query": 3}', "seed=5")
    project.run("snakemake", "--dry-run", "--forceall")
    assert contents(project) == before
    assert project.snakemake() == set()
    assert contents(project) == before


def test_a_second_start_is_refused_in_one_line_and_changes_nothing(project: Project) -> None:
    with holding(project, "locks.hold_run_lock('snakemake --cores 4')") as other:
        before = contents(project)
        assert project.snakemake("--config", "seed=5", ok=False) == set()
        assert project.last.returncode == 2
        lines = [line for line in project.last.stderr.splitlines() if line.startswith("datafree:")]
        assert len(lines) == 1
        assert f"another run of this folder is in progress: process {other.pid} on host" in lines[0]
        assert "snakemake --cores 4" in lines[0]
        assert "Traceback" not in project.last.stderr
        assert contents(project) == before
    assert project.snakemake("--config", 'evaluation={"episodes": 21}', "--", "evaluation") == {"few_shot", "networks"}


def test_a_run_names_a_job_that_is_left_of_a_killed_run_and_waits_for_it(project: Project) -> None:
    project.change("evaluation.episodes", 21)
    with holding(project, "(manager := locks.job_lock('few_shot')).__enter__()") as orphan:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        run = subprocess.Popen(
            ["snakemake", "--cores", "2", "--", "evaluation"],
            cwd=project.folder,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        log = project.folder / "logs/few_shot.log"
        while "waiting for process" not in (log.read_text() if log.exists() else ""):
            assert run.poll() is None
            time.sleep(0.2)
        orphan.send_signal(signal.SIGKILL)
        _, printed = run.communicate(timeout=500)
    assert run.returncode == 0, printed
    assert f"datafree: still running after the end of their run: process {orphan.pid} on host" in printed
    assert records(project)[f"{FEW_SHOT}/provenance.json"]["config"]["evaluation"]["episodes"] == 21


@pytest.mark.parametrize("shift", [7200, pytest.param(-(10**9), marks=pytest.mark.slow)])
def test_clocks_decide_nothing(project: Project, shift: int) -> None:
    for path in project.folder.glob("artifacts/**/*"):
        os.utime(path, (time.time() + shift, time.time() + shift))
    assert project.snakemake() == set()
    for episodes in (21, 20):
        project.change("evaluation.episodes", episodes)
        assert project.snakemake("--", "evaluation") == {"few_shot", "networks"}


@pytest.mark.slow  # computes nearly everything twice
def test_a_run_in_another_precision_leaves_no_mixture(project: Project) -> None:
    precision = records(project)[f"{FEW_SHOT}/provenance.json"]["config"]["precision"]
    other = {"float32": "bfloat16", "bfloat16": "float32"}[precision]
    before = {path: content for path, content in contents(project).items() if path.startswith("artifacts")}
    computed = project.snakemake("--config", f"precision={other}", "--", "zoo")
    assert {name.partition("/")[0] for name in computed} >= {"teacher"}
    assert project.snakemake() >= computed
    assert {record["config"].get("precision", precision) for record in records(project).values()} == {precision}
    assert {path: content for path, content in contents(project).items() if path.startswith("artifacts")} == before


@pytest.mark.parametrize(
    "name",
    [
        'it\'s {a} $(touch PWNED) "quoted" name;.safetensors',
        pytest.param("a$(touch PWNED).safetensors", marks=pytest.mark.slow),
        pytest.param("-o x=y & `touch PWNED`.safetensors", marks=pytest.mark.slow),
    ],
)
def test_the_name_of_a_file_cannot_run_a_command(project: Project, name: str) -> None:
    (project.folder / "zoos" / name).write_bytes((project.folder / "artifacts/zoo/glyphs-01/weights.safetensors").read_bytes())
    classes = ", ".join(f"class-{letter}" for letter in "abcdefgh")
    entry = f"{{name: glyphs-01, file: {json.dumps(name)}, classes: [{classes}]}}"
    project.edit("zoos/glyphs.yaml", "{name: glyphs-01, train: {classes: 8, seed: 1}}", entry)
    assert project.snakemake("--", "zoo") == {"teacher/glyphs-01"}
    assert not list(project.folder.rglob("PWNED"))
    assert records(project)["artifacts/zoo/glyphs-01/provenance.json"]["config"]["teachers.glyphs-01"]["file"] == f"zoos/{name}"


def test_a_changed_checkpoint_is_noticed_by_content_and_a_touched_one_is_not(project: Project) -> None:
    file = project.folder / "zoos/given.safetensors"
    weights = [(project.folder / f"artifacts/zoo/glyphs-0{number}/weights.safetensors").read_bytes() for number in (0, 1)]
    file.write_bytes(weights[1])
    classes = ", ".join(f"class-{letter}" for letter in "abcdefgh")
    entry = f"{{name: glyphs-01, file: given.safetensors, classes: [{classes}]}}"
    project.edit("zoos/glyphs.yaml", "{name: glyphs-01, train: {classes: 8, seed: 1}}", entry)
    assert project.snakemake("--", "zoo") == {"teacher/glyphs-01"}
    os.utime(file)
    assert project.snakemake("--", "zoo") == set()
    status = file.stat()
    file.write_bytes(weights[0])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same size and time
    assert project.snakemake("--", "zoo") == {"teacher/glyphs-01"}
