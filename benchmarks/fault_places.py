"""The faults of ``faults.py`` that lie in disks, folders and the environment; each function is one kind, as in ``fault_kinds.py``."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from fault_kinds import LAST_JOBS, last_event
from fault_project import SYSTEM_ERRORS, NotPossible, Project

# Snakemake starts with the modes of files in force for root too.
WITHOUT_PRIVILEGES = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]


def full_disk(project: Project, rng: random.Random, where: str) -> str:
    """The file system of ``where`` (``.`` is the whole project) has too little space by a random amount; then it is enlarged."""
    source = Project(project.root, project.reference, "source")
    source.make_unfinished(rng, 0.1, *LAST_JOBS)
    needed, present = size_on_disk(project.reference.finished / where), size_on_disk(source.folder / where)
    size = round(present + rng.uniform(0.02, 0.9) * max(needed - present, 100_000))
    if where == ".":
        project.folder.mkdir()
    else:
        source.folder.rename(project.folder)
        (project.folder / where).rename(source.folder)
        (project.folder / where).mkdir()
    with mounted(project.folder / where, "-t", "tmpfs", "-o", f"size={size}", "tmpfs"):
        shutil.copytree(source.folder, project.folder / where, symlinks=True, dirs_exist_ok=True)
        run = project.run()
        project.require_refusal(run, *SYSTEM_ERRORS)
        project.wait_for_processes()
        mount("-o", "remount,size=1g", str(project.folder / where))
        project.finish()
    return f"{size - present} bytes free in {where}: status {run.status}"


def read_only(project: Project, rng: random.Random, where: str) -> str:
    """A folder (``.`` is the whole project) cannot be written; then it can."""
    project.make_unfinished(rng, 0.1, *LAST_JOBS)
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        raise NotPossible("root ignores modes, and there is no setpriv")
    project.prefix = WITHOUT_PRIVILEGES if os.geteuid() == 0 else []
    folders = [project.folder / where, *(path for path in (project.folder / where).rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        folder.chmod(0o555)
    run = project.run()
    project.require_refusal(run, *SYSTEM_ERRORS)
    project.wait_for_processes()
    for folder in folders:
        folder.chmod(0o755)
    project.finish()
    return f"status {run.status}"


def environment(project: Project, rng: random.Random, **variables: str) -> str:
    """Environment variables with unusual values."""
    project.make_unfinished(rng, 0.1, *LAST_JOBS)
    project.environment |= variables
    project.finish()
    return ", ".join(f"{name}={value}" for name, value in variables.items())


def linked_artifacts(project: Project, rng: random.Random) -> str:
    """``artifacts`` is a symbolic link to another disk."""
    project.make_unfinished(rng, 0.2, *LAST_JOBS)
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as elsewhere:
        shutil.copytree(project.folder / "artifacts", elsewhere, dirs_exist_ok=True)
        shutil.rmtree(project.folder / "artifacts")
        (project.folder / "artifacts").symlink_to(elsewhere)
        project.finish()
        if not (project.folder / "artifacts").is_symlink():
            project.problems.append("the link artifacts was replaced")
    return "artifacts in /dev/shm"


def other_path(project: Project, rng: random.Random, name: str) -> str:
    """The project folder has another name."""
    project.folder = project.root / name
    project.make_unfinished(rng, 0.2, *LAST_JOBS)
    project.finish()
    return name


def git_repository(project: Project, rng: random.Random, present: bool) -> str:
    """The project is a git repository, or is none."""
    project.make_unfinished(rng, 0.1, *LAST_JOBS)
    shutil.rmtree(project.folder / ".git", ignore_errors=True)
    if present:
        for words in (["init", "--quiet"], ["add", "--all"]):
            subprocess.run(["git", *words], cwd=project.folder, check=True)
    project.finish()
    return "with .git" if present else "without .git"


def moved(project: Project, rng: random.Random) -> str:
    """A run is stopped at a random point, the project folder is moved, and the run is continued there."""
    project.make_unfinished(rng, 0.2, *LAST_JOBS)
    run = project.start()
    run.wait(rng.uniform(5, 40))
    os.killpg(run.process.pid, signal.SIGKILL)
    project.end(run)
    project.wait_for_processes()
    project.folder = project.folder.rename(project.root / "moved")
    project.finish()
    return f"moved after {last_event(project)}"


def size_on_disk(folder: Path) -> int:
    """Bytes that a folder takes on a tmpfs, whose blocks have 4096 bytes."""
    paths = [folder, *folder.rglob("*")] if folder.exists() else []
    return sum(4096 * (1 + (path.lstat().st_size - 1) // 4096) if path.is_file() else 4096 for path in paths)


def mount(*words: str) -> None:
    """Run the mount command.

    Raises:
        NotPossible: there is none, or it is not permitted.
    """
    if shutil.which("mount") is None:
        raise NotPossible("there is no mount command")
    done = subprocess.run(["mount", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NotPossible(f"cannot mount a file system here: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(folder: Path, *words: str) -> Iterator[None]:
    """Mount a file system on an empty folder; only root can.

    Raises:
        NotPossible: as ``mount``.
    """
    mount(*words, str(folder))
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=False)
