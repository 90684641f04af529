"""Locks: one run per project folder, and one process per job.

A lock is an advisory lock (flock) on a file, which the kernel releases when its process ends for any reason: no lock is ever left behind.
The file names its holder (process, host, what it does) for messages.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datafree.errors import UserError

FOLDER = Path(".datafree/locks")
RUN_LOCK = FOLDER / "run.lock"
_held: list[int] = []  # descriptors of locks that this process holds until it ends


@contextlib.contextmanager
def job_lock(name: str) -> Iterator[None]:
    """Hold the lock of a job; waits while another process holds it, such as one whose pipeline was killed, and says so once."""
    path = FOLDER / f"{name.replace('/', '.')}.lock"
    handle = _open(path)
    try:
        if not _try(handle):
            print(
                f"{name}: waiting for {holder(path) or 'another process'}, which computes the same job; `datafree stop` ends it",
                file=sys.stderr,
                flush=True,
            )
            fcntl.flock(handle, fcntl.LOCK_EX)
        _write_holder(handle, f"job {name}")
        yield
    finally:
        os.close(handle)


def running_jobs() -> list[str]:
    """Who computes jobs of this folder now, by ``holder``."""
    running = []
    for path in sorted(set(FOLDER.glob("*.lock")) - {RUN_LOCK}):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if not _try(handle):
                running.append(holder(path) or f"the process that holds {path}")
        finally:
            os.close(handle)
    return running


def hold_run_lock(command: str) -> None:
    """Hold the lock of the project folder until this process ends.

    Raises:
        UserError: another run holds it.
    """
    handle = _open(RUN_LOCK)
    if not _try(handle):
        os.close(handle)
        raise UserError(
            f"another run of this folder is in progress: {holder(RUN_LOCK) or 'another process'}; wait until it ends, or end it with "
            "`datafree stop`. Nothing was changed"
        )
    _write_holder(handle, command)
    _held.append(handle)


def holder(path: Path) -> str:
    """Who holds a lock, such as ``process 42 on host a (job teacher/t0, since 2026-11-28 10:00:00)``; empty if unknown."""
    text = _read_holder(path)
    return f"process {text['pid']} on host {text['host']} ({text['work']}, since {text['since']})" if text else ""


def stop_all(seconds: float = 20.0) -> list[str]:
    """End all processes of this host that hold a lock of this folder: first the run, then its jobs. Returns a description of each.

    Each gets SIGTERM and, if it still holds its lock after ``seconds``, SIGKILL. The next run continues from the checkpoints of the jobs.

    Raises:
        UserError: a holder is on another host.
    """
    ended = []
    for path in [RUN_LOCK, *sorted(set(FOLDER.glob("*.lock")) - {RUN_LOCK})]:
        if not path.is_file():
            continue
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _try(handle):
                continue
            who = _read_holder(path)
            if not who or who["host"] != platform.node():
                raise UserError(f"{path}: held by {holder(path) or 'an unknown process'}; end it on its host")
            ended.append(holder(path))
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(who["pid"], number)
                if _wait(handle, seconds):
                    break
        finally:
            os.close(handle)
    return ended


def _wait(handle: int, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if _try(handle):
            return True
        time.sleep(0.05)
    return False


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _try(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _write_holder(handle: int, work: str) -> None:
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "work": work, "since": time.strftime("%Y-%m-%d %H:%M:%S")})
    with contextlib.suppress(OSError):  # a full disk: the lock holds without its description
        os.ftruncate(handle, 0)
        os.pwrite(handle, text.encode(), 0)


def _read_holder(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return {"pid": int(value["pid"]), "host": str(value["host"]), "work": str(value["work"]), "since": str(value["since"])}
    except (OSError, ValueError, TypeError, KeyError):
        return {}
