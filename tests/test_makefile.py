"""The Makefile: programs of .venv alone, in folders of any name, also after a move; stand-ins take the place of all programs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Logs its name as called and its arguments, one per line; as `python -m venv` it creates the environment.
STAND_IN = """#!/bin/sh
printf 'CALL\\n%s\\n' "$0" >> "$CALLS"
printf '%s\\n' "$@" >> "$CALLS"
if [ "$2" = venv ]; then
    rm -rf .venv && mkdir -p .venv/bin && cp "$STAND_IN" .venv/bin/python
elif [ "$1" = -c ]; then
    echo 3
fi
"""
NAMES = ["plain", "two words", "o'brien", "p (1), q", 'say "x"', "a;touch PWNED", "`touch PWNED`", "[a-z]* & x"]


class Project:
    """A folder with the Makefile and stand-ins for Python and for all programs that must not be found by name."""

    def __init__(self, folder: Path, tools: Path):
        self.folder, self.calls, self.python = folder, tools / "calls", tools / "python"
        folder.mkdir(parents=True)
        shutil.copy(ROOT / "Makefile", folder)
        for name in ("requirements.lock", "pyproject.toml"):
            (folder / name).touch()
        (tools / "found by name").mkdir(parents=True)
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "GNUMAKE"))}
        self.environment |= {"CALLS": str(self.calls), "STAND_IN": str(self.python), "HOST": "x86_64-conda-linux-gnu"}
        for program in ("snakemake", "dvc", "mlflow", "pytest", "ruff", "pyright", "datafree", "pip"):
            (tools / "found by name" / program).symlink_to(self.python)
        self.environment["PATH"] = f"{tools / 'found by name'}{os.pathsep}{os.environ['PATH']}"

    def run_make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["make", *arguments, f"PYTHON={self.python}"]
        return subprocess.run(command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60, check=False)

    def make(self, *arguments: str) -> list[list[str]]:
        """The programs that make calls, each with its arguments."""
        self.calls.unlink(missing_ok=True)
        done = self.run_make(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        assert not re.search(r"not found|No such file|[Ss]yntax error", done.stderr), done.stderr
        calls = self.calls.read_text().split("CALL\n")[1:] if self.calls.exists() else []
        return [call.splitlines() for call in calls]


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path / "project", tmp_path / "tools")


def modules(calls: list[list[str]]) -> list[str]:
    """The Python modules that run, in order; tests of the machine (`python -c`) do not count."""
    return [call[2] for call in calls if call[1] == "-m"]


@pytest.mark.parametrize("name", NAMES)
def test_every_target_works_in_a_folder_of_any_name(tmp_path, name):
    project = Project(tmp_path / name, tmp_path / "tools")
    calls = project.make("run")
    assert modules(calls) == ["venv", "pip", "pip", "snakemake"]
    assert calls[-1] == [".venv/bin/python", "-m", "snakemake", "--cores", "all", "--resources", "gpu=3"]
    for target, module in {"smoke": "snakemake", "verify": "snakemake", "test": "pytest", "test-all": "pytest", "types": "pyright"}.items():
        assert modules(project.make(target)) == [module]
    assert modules(project.make("record")) == ["snakemake", "dvc"]
    assert modules(project.make("lint")) == ["ruff", "ruff"]
    assert modules(project.make("status")) == ["datafree"]
    assert modules(project.make("test-hardware")) == ["pytest"]
    calls = project.make("ui")
    assert calls[-1][1:] == [
        *("-m", "mlflow", "ui", "--backend-store-uri", "sqlite:///mlflow.db", "--workers", "1"),
        *("--host", "127.0.0.1", "--port", "5000"),
    ]  # fmt: skip
    project.make("help")
    project.make("clean")
    assert not list(tmp_path.rglob("PWNED"))
    assert project.make("setup") == []


@pytest.mark.parametrize("name", ["x$y", "$(touch PWNED)"])
def test_a_folder_that_setuptools_cannot_install_from_is_refused_in_one_line(tmp_path, name):
    project = Project(tmp_path / name, tmp_path / "tools")
    done = project.run_make("run")
    assert done.returncode == 2
    assert done.stderr.startswith(
        f"make: setuptools cannot install from a folder with a dollar sign in its path, {project.folder}; rename it\n"
    )
    assert not list(tmp_path.rglob("PWNED"))


@pytest.mark.parametrize("value", ["a b", "$(touch PWNED)", "o'brien"])
def test_values_of_the_user_are_arguments_and_no_commands(project, value):
    for calls in (project.make("run", f"CORES={value.replace('$', '$$')}"), project.make("ui", f"PORT={value.replace('$', '$$')}")):
        assert value in calls[-1]
    assert not (project.folder / "PWNED").exists()


@pytest.mark.parametrize("new_name", ["renamed", "o'brien (2), x"])
def test_a_moved_or_copied_project_is_set_up_again_and_once(project, tmp_path, new_name):
    project.make("setup")
    shutil.copytree(project.folder, tmp_path / "copy")
    project.folder = project.folder.rename(tmp_path / new_name)
    for folder in (project.folder, tmp_path / "copy"):
        project.folder = folder
        assert modules(project.make("run")) == ["venv", "pip", "pip", "snakemake"]
        assert modules(project.make("run")) == ["snakemake"]


def test_changed_requirements_are_installed(project):
    project.make("setup")
    later = (project.folder / ".venv/.installed").stat().st_mtime + 10
    os.utime(project.folder / "requirements.lock", (later, later))
    assert modules(project.make("setup")) == ["venv", "pip", "pip"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.1.1", "::1"])
def test_mlflow_keeps_its_own_limits_on_this_machine(project, host):
    (call,) = [call for call in project.make("ui", f"HOST={host}") if "mlflow" in call]
    assert call[-4:] == ["--host", host, "--port", "5000"]


@pytest.mark.parametrize(("host", "shown"), [("0.0.0.0", "0.0.0.0"), ("lab.example", "lab.example"), ("::", "[::]")])
def test_mlflow_is_told_the_names_under_which_other_machines_reach_it(project, host, shown):
    (call,) = [call for call in project.make("ui", f"HOST={host}", "PORT=5001") if "mlflow" in call]
    options = dict(zip(call[4::2], call[5::2], strict=True))
    assert (options["--host"], options["--port"]) == (host, "5001")
    hosts, origins = options["--allowed-hosts"].split(","), options["--cors-allowed-origins"].split(",")
    assert {f"{shown}:5001", "localhost:5001", "127.0.0.1:5001"} <= set(hosts)
    assert origins == [f"http://{name}" for name in hosts]


def test_clean_removes_all_results_and_empties_linked_folders(project, tmp_path):
    kept = {path.name for path in project.folder.iterdir()}
    for name in ("results", "logs", ".datafree/jobs", ".snakemake", "mlruns/0", "mlartifacts/0", "dvc_plots"):
        (project.folder / name).mkdir(parents=True)
    for name in ("mlflow.db", "mlflow.db-wal", "logs/x", "scratch/zoo/x", "scratch/.hidden"):
        path = (tmp_path if name.startswith("scratch") else project.folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "x").touch()
    (tmp_path / "scratch" / "link").symlink_to(tmp_path / "cache")
    (project.folder / "artifacts").symlink_to(tmp_path / "scratch")
    project.make("clean")
    assert {path.name for path in project.folder.iterdir()} == {*kept, "artifacts"}
    assert not list((tmp_path / "scratch").iterdir())
    assert (tmp_path / "cache" / "x").exists()


def chosen_python(project: Project) -> str:
    """The Python that make itself chooses for the environment."""
    command = ["make", "--no-print-directory", "-f", "-", "show"]
    text = "include Makefile\nshow:\n\t@echo $(call quoted,$(PYTHON))\n"
    done = subprocess.run(command, input=text, cwd=project.folder, env=project.environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_python_of_an_activated_environment_gives_way_to_the_one_it_was_made_from(project):
    assert chosen_python(project)
    environment = project.folder / ".venv/bin"
    environment.mkdir(parents=True)
    for number in (11, 12, 13, 14):
        (environment / f"python3.{number}").symlink_to(os.path.realpath(sys.executable))
    project.environment["PATH"] = f"{environment}{os.pathsep}{project.environment['PATH']}"
    assert Path(chosen_python(project)) == Path(sys.executable).resolve()


def test_without_a_suitable_python_setup_says_so(project):
    for number in ("3.11", "3.12", "3.13", "3.14", "3", ""):
        old = project.folder.parent / "tools" / "found by name" / f"python{number}"
        old.write_text("#!/bin/sh\nexit 1\n")
        old.chmod(0o755)
    done = subprocess.run(["make", "setup"], cwd=project.folder, env=project.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make: found no Python 3.11 or newer with the modules venv and ensurepip; install one" in done.stderr
