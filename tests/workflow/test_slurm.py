"""The pipeline on a Slurm cluster, through Snakemake's executor plugin and profiles/slurm: submissions, GPUs, time limits.

Each test starts a cluster of one node on this machine (``slurm_cluster``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workflow import slurm_cluster
from tests.workflow.conftest import Project, copy_checkout

MISSING = [f"{name} is not installed: apt-get install {' '.join(slurm_cluster.PACKAGES)}" for name in slurm_cluster.missing_programs()[:1]]
if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
    MISSING.append("snakemake-executor-plugin-slurm is not installed: pip install 'datafree[slurm]'")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(MISSING), reason="; ".join(MISSING))]

SMOKE = ("--configfile", "presets/smoke.yaml")
QUICK = ("--slurm-init-seconds-before-status-checks", "5")
STAND_IN_CARDS = "\n".join(
    [
        "#!/bin/sh",
        'case "$*" in',
        '*compute_cap*) printf "GPU-aa, stand-in, 8.0\\nGPU-bb, stand-in, 8.0\\n" ;;',
        '*) printf "0, GPU-aa\\n1, GPU-bb\\n" ;;',
        "esac",
    ]
)
USABLE = """

def unusable():
    return ""
"""
# Jobs take their card as on a GPU, note when they hold it, and compute on the CPU.
DEVICES = """
import os
import time


def _check(gpu):
    pass


_use_a_card = use


@contextlib.contextmanager
def use(spec):
    import torch

    outer = bool(_IN_USE)
    with _use_a_card(spec):
        if outer:
            yield torch.device("cpu")
            return
        note = f"{os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}"
        with open("cards.log", "a") as log:
            print("takes", note, file=log, flush=True)
        try:
            time.sleep(3)
            yield torch.device("cpu")
        finally:
            with open("cards.log", "a") as log:
                print("leaves", note, file=log, flush=True)
"""
# A job stops after its second step for as long as the file `stall` exists, and notes the step from which it continues.
STALLED = """

_save, _restore = Checkpoint.save, Checkpoint.restore


def _save_and_stall(self, step, history, **objects):
    self.seconds_between = 0.0
    _save(self, step, history, **objects)
    if step >= 2 and Path("stall").exists():
        time.sleep(3600)


def _note_and_restore(self, **objects):
    step, history = _restore(self, **objects)
    with open("restored.log", "a") as log:
        print(step, file=log)
    return step, history


Checkpoint.save, Checkpoint.restore = _save_and_stall, _note_and_restore
"""


class ClusterProject(Project):
    """A project folder whose commands run as a cluster user's: with Slurm's configuration, and with a note of every submission."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder)
        programs = folder / "programs"
        programs.mkdir(exist_ok=True)
        self.program("sbatch", f'#!/bin/sh\necho "$@" >> "{folder}/sbatch.log"\nexec {shutil.which("sbatch")} "$@"\n')
        paths = [str(programs), str(Path(sys.executable).parent), environment["PATH"]]
        python_path = [str(folder / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environment = environment | {
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": os.pathsep.join(python_path),  # the plugin may be installed in a folder of its own
            "OMP_NUM_THREADS": "1",
        }

    def program(self, name: str, text: str) -> None:
        path = self.folder / "programs" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, *command: str, ok: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "COV", "SLURM"))}
        done = subprocess.run(
            command, cwd=self.folder, env=environment | self.environment, capture_output=True, text=True, timeout=1800, check=False
        )
        assert not ok or done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
        return done

    def slurm(self, *arguments: str, ok: bool = True) -> str:
        """Run Snakemake with the profile; its output."""
        done = self.run("snakemake", "--profile", "profiles/slurm", *QUICK, *SMOKE, *arguments, ok=ok)
        return done.stdout + done.stderr

    def submissions(self) -> list[str]:
        """The options of every sbatch call, without the command that it submits."""
        return [line.partition("--wrap")[0] for line in self.lines("sbatch.log") if "--parsable" in line]

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster_project(tmp_path: Path):
    """A function from a number of stand-in GPUs to a context: a project folder on a running cluster with them."""

    @contextlib.contextmanager
    def start(gpus: int) -> Iterator[ClusterProject]:
        copy_checkout(tmp_path / "project")
        # Sockets need a short path.
        with tempfile.TemporaryDirectory(prefix="slurm-") as folder, slurm_cluster.cluster(Path(folder), gpus=gpus) as environment:
            yield ClusterProject(tmp_path / "project", environment)

    return start


def cards_in_use(lines: list[str]) -> list[set[str]]:
    """The cards in use after each line of cards.log; no card is taken while another process holds it."""
    held: dict[str, str] = {}
    history = []
    for line in lines:
        action, process, card = line.split()
        if action == "takes":
            assert card not in held, f"{card} is taken twice"
            held[card] = process
        else:
            assert held.pop(card) == process
        history.append(set(held))
    return history


def give_stand_in_cards(project: ClusterProject) -> None:
    project.program("nvidia-smi", STAND_IN_CARDS)
    for module, text in {"devices": DEVICES, "gpus": USABLE}.items():
        with (project.folder / f"src/datafree/{module}.py").open("a") as file:
            file.write(text)


CUDA = ("--config", "device=cuda", "precision=float32")


def test_a_cluster_without_gpus_runs_the_smoke_preset_in_at_most_12_submissions(cluster_project) -> None:
    with cluster_project(gpus=0) as project:
        printed = project.slurm()
        assert "distillation" in printed  # the table
        assert (project.folder / "artifacts/report/report.html").stat().st_size > 10_000
        assert 0 < len(project.submissions()) <= 12
        assert not [options for options in project.submissions() if "--gpus" in options or "--gres" in options]
        again = project.run("snakemake", "--cores", "1", *SMOKE)
        assert "Nothing to be done" in again.stdout + again.stderr


def test_each_device_job_has_a_card_of_its_own(cluster_project) -> None:
    with cluster_project(gpus=2) as project:
        give_stand_in_cards(project)
        project.slurm(*CUDA, "--", "inversion")
        submissions = project.submissions()
        assert len(submissions) <= 6
        assert {"--gpus=1" in options for options in submissions} == {True, False}  # the images need none
        lines = project.lines("cards.log")
        cards_in_use(lines)
        assert {line.split()[2] for line in lines} <= {"0", "1", "GPU-aa", "GPU-bb"}  # one card each, never "0,1"


def test_jobs_of_one_allocation_share_its_cards_one_each(cluster_project) -> None:
    with cluster_project(gpus=2) as project:
        give_stand_in_cards(project)
        command = f"snakemake --cores 2 --resources gpu=2 {' '.join([*SMOKE, *CUDA])} -- inversion > allocation.log 2>&1"
        project.run("sbatch", "--wait", "--gpus=2", "--output=/dev/null", f"--wrap={command}")
        history = cards_in_use(project.lines("cards.log"))
        assert max(map(len, history)) == 2


def test_a_job_that_reaches_its_time_limit_is_ended_and_continues_in_the_next_run(cluster_project) -> None:
    with cluster_project(gpus=0) as project:
        with (project.folder / "src/datafree/checkpoints.py").open("a") as file:
            file.write(STALLED)
        project.run("snakemake", "--cores", "2", *SMOKE, "--", "zoo")
        (project.folder / "stall").touch()
        target = "artifacts/inversion/meta_generator/provenance.json"
        limited = ("--retries", "0", "--set-resources", "meta_generator:runtime=2")
        assert "TIMEOUT" in project.slurm(*limited, "--", target, ok=False)
        (project.folder / "stall").unlink()
        (project.folder / "restored.log").unlink()
        project.slurm("--", target)
        assert project.lines("restored.log") == ["2"]
