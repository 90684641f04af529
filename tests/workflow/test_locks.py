"""Locks of runs and jobs, held by real processes."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datafree.errors import UserError
from datafree.workflow import locks

# Both hold their lock until their standard input is closed.
HOLD_JOB = """
from datafree.workflow import locks
import sys
with locks.job_lock("teacher/t0"):
    print("held", flush=True)
    sys.stdin.read()
"""
HOLD_RUN = """
from datafree.workflow import locks
import sys
locks.hold_run_lock("snakemake --cores 2")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process(tmp_path, monkeypatch):
    """A function that starts a process which holds a lock in this folder."""
    monkeypatch.chdir(tmp_path)
    started = []

    def start(script: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        started.append(subprocess.Popen([sys.executable, "-c", script], **pipes, text=True))
        assert started[-1].stdout.readline() == "held\n"
        return started[-1]

    yield start
    for child in started:
        with child:  # closes its pipes
            child.kill()


@pytest.fixture
def released_when_named(monkeypatch):
    """A function that lets a process end as soon as this one has found out whom it waits for."""

    def prepare(child: subprocess.Popen) -> None:
        def holder(path: Path) -> str:
            who = read(path)
            child.stdin.close()
            return who

        read = locks.holder
        monkeypatch.setattr(locks, "holder", holder)

    return prepare


def test_a_job_waits_for_another_process_and_names_it(process, released_when_named, capsys):
    child = process(HOLD_JOB)
    released_when_named(child)
    with locks.job_lock("teacher/t0"):
        assert child.wait(60) == 0
    said = capsys.readouterr().err
    assert said.startswith(f"teacher/t0: waiting for process {child.pid} on host {platform.node()} (job teacher/t0, since 20")
    assert said.endswith("which computes the same job; `datafree stop` ends it\n")
    with locks.job_lock("teacher/t0"):  # free again
        pass
    assert capsys.readouterr().err == ""


def test_jobs_do_not_wait_for_others(process, capsys):
    process(HOLD_JOB)
    with locks.job_lock("teacher/t1"):
        pass
    assert capsys.readouterr().err == ""


def test_a_killed_process_leaves_no_lock(process):
    for script, hold in ((HOLD_JOB, lambda: locks.job_lock("teacher/t0").__enter__()), (HOLD_RUN, lambda: None)):
        child = process(script)
        child.send_signal(signal.SIGKILL)
        child.wait()
        hold()
    locks.hold_run_lock("snakemake")
    while locks._held:
        os.close(locks._held.pop())


def test_a_second_run_is_refused_in_one_line_and_writes_nothing(process):
    child = process(HOLD_RUN)
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    with pytest.raises(
        UserError, match=rf"another run of this folder is in progress: process {child.pid} on host .*snakemake --cores 2.*stop"
    ):
        locks.hold_run_lock("snakemake --cores 1")
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


def test_stop_ends_the_run_and_jobs_whose_run_was_killed(process):
    children = [process(HOLD_JOB), process(HOLD_RUN)]
    ended = locks.stop_all()
    assert [str(child.pid) in who for child, who in zip(reversed(children), ended, strict=True)] == [True, True]
    assert [child.wait(60) for child in children] == [-signal.SIGTERM] * 2
    assert locks.stop_all() == []


def test_stop_kills_a_process_that_ignores_the_request(process):
    child = process("import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + HOLD_JOB)
    start = time.monotonic()
    assert len(locks.stop_all(seconds=0.3)) == 1
    assert child.wait(60) == -signal.SIGKILL
    assert time.monotonic() - start >= 0.3


def test_a_holder_on_another_host_is_not_ended(process, monkeypatch):
    child = process(HOLD_JOB)
    monkeypatch.setattr(platform, "node", lambda: "elsewhere")
    with pytest.raises(UserError, match=rf"teacher.t0.lock: held by process {child.pid} on host .*; end it on its host"):
        locks.stop_all()
    assert child.poll() is None


@pytest.mark.parametrize("text", ["", "[]", "{", '{"pid": "x"}'])
def test_an_unreadable_description_does_not_matter(process, released_when_named, capsys, text):
    released_when_named(process(HOLD_JOB))
    Path(".datafree/locks/teacher.t0.lock").write_text(text)
    with locks.job_lock("teacher/t0"):
        pass
    assert "waiting for another process, which computes the same job" in capsys.readouterr().err
