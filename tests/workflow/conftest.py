"""Project folders for tests with the real Snakemake and DVC: copies of this checkout in a git repository, with tiny settings."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from datafree.config import as_tree, load

Made = tuple[set[str], str]  # names of the computed jobs, and the output of the run
ROOT = Path(__file__).parents[2]
TINY = {
    "zoo": {"limit": 2},
    "inversion": {"methods": {"five": {"steps": 2}, "deep_inversion": None}},
    "meta": {"arms": {"bell": {"inversion": "five"}, "distillation": None}},
    "nas": {"algorithms": {"spos": {"inversion": "five"}}},
    "evaluation": {"oracle_steps": 4, "oracle_backbone": {"width": 16}},
}


class Project:
    """A project folder and the commands that a user would type in it.

    ``computed``: the jobs that were computed when the folder was made. ``printed``: the output of that run.
    """

    def __init__(self, folder: Path, computed: Iterable[str] = (), printed: str = "") -> None:
        self.folder = folder
        self.computed, self.printed = set(computed), printed

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "DVC", "GIT"))}
        environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
        environment |= {"PYTHONPATH": str(self.folder / "src"), "DVC_NO_ANALYTICS": "1"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=540, check=False)
        assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def snakemake(self, *arguments: str, ok: bool = True) -> set[str]:
        """Run Snakemake; the names of the jobs that it computed."""
        return self._computed("snakemake", "--cores", "2", *arguments, ok=ok)

    def dvc_repro(self, *arguments: str) -> set[str]:
        """Run DVC; the names of the jobs that it computed."""
        return self._computed("dvc", "repro", *arguments)

    def _computed(self, *command: str, ok: bool = True) -> set[str]:
        before = len(self.job_log())
        self.last = self.run(*command, ok=ok)
        return {line.split()[2].rstrip(":") for line in self.job_log()[before:] if "computing" in line}

    def job_log(self) -> list[str]:
        path = self.folder / "logs/jobs.log"
        return path.read_text().splitlines() if path.exists() else []

    def change(self, dotted: str, value: object) -> None:
        """Set one parameter in params.yaml."""
        path = self.folder / "params.yaml"
        tree = yaml.safe_load(path.read_text())
        *parents, last = dotted.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[last] = value
        path.write_text(yaml.safe_dump(tree, sort_keys=False))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))

    def commit(self, message: str) -> None:
        self.run("git", "add", "--all")
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "--message", message)

    def copy(self, folder: Path) -> Project:
        """A copy of the folder, with modification times."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return Project(folder)

    def clone(self, folder: Path) -> Project:
        """A git clone: only tracked files."""
        self.run("git", "clone", "--quiet", str(self.folder), str(folder))
        return Project(folder)


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Callable[[str, Callable[[Path], Made]], Project]:
    """A function that makes a project by name, once for all processes of the test run, which only read it."""
    base = tmp_path_factory.getbasetemp()
    shared = (base if worker_id == "master" else base.parent) / "workflow"

    def make(name: str, work: Callable[[Path], Made]) -> Project:
        shared.mkdir(exist_ok=True)
        folder, done = shared / name, shared / f"{name}.json"
        with FileLock(shared / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
                computed, printed = work(folder)
                done.write_text(json.dumps({"computed": sorted(computed), "printed": printed}))
        return Project(folder, **json.loads(done.read_text()))

    return make


@pytest.fixture(scope="session")
def empty_project(once, precision: str) -> Project:
    """A committed checkout with tiny settings, before any run."""
    return once("empty", functools.partial(checkout, precision=precision))


def copy_checkout(folder: Path) -> None:
    """Copy the files of this checkout, tests apart, into a new folder."""
    folder.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)


def checkout(folder: Path, precision: str) -> Made:
    copy_checkout(folder)
    tiny = folder / "tiny.yaml"
    tiny.write_text(yaml.safe_dump({**TINY, "precision": precision}))
    settings = as_tree(load(folder / "params.yaml", folder / "presets/smoke.yaml", tiny))
    tiny.unlink()
    (folder / "params.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
    project = Project(folder)
    project.run("git", "init", "--quiet", "--initial-branch", "main")
    project.commit("tiny settings")
    return set(), ""


@pytest.fixture(scope="session")
def finished(once, empty_project: Project) -> Project:
    """The project after a complete Snakemake run; tests use copies of it."""

    def run(folder: Path) -> Made:
        project = empty_project.copy(folder)
        return project.snakemake(), project.last.stdout + project.last.stderr

    return once("finished", run)


@pytest.fixture(scope="session")
def recorded(once, finished: Project) -> Project:
    """The finished project after `dvc repro`, with its dvc.lock committed."""

    def record(folder: Path) -> Made:
        project = finished.copy(folder)
        computed = project.dvc_repro()
        project.commit("results")
        return computed, project.last.stdout + project.last.stderr

    return once("recorded", record)
