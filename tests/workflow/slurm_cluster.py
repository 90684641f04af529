"""A Slurm cluster of one node on this machine, for as long as a command runs; everything it writes lies in one temporary folder.

    python tests/workflow/slurm_cluster.py [--install] [--gpus 2] -- snakemake --profile profiles/slurm

starts munged, slurmctld and slurmd of Debian's packages ``slurm-wlm`` and ``munge`` with a configuration of their own, waits until the
node is idle, runs the command with SLURM_CONF set, and stops the daemons, also after an error. An existing configuration in /etc and
running daemons of a real cluster are not touched. Any user may run it; only ``--install`` needs root. Accounting is off.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGES = ("slurm-wlm", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo", "scontrol", "scancel")
# Two files that exist everywhere stand in for GPUs: Slurm allocates them like devices and sets CUDA_VISIBLE_DEVICES.
STAND_IN_GPUS = ("/dev/null", "/dev/zero")
START_SECONDS = 60


class ClusterError(Exception):
    """A daemon did not start; the message ends with its log."""


def missing_programs() -> list[str]:
    """The programs of Slurm and munge that this machine lacks; daemons lie in /usr/sbin, which may be missing from PATH."""
    return [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]


def install() -> None:
    """Install the Debian packages; needs root and the network."""
    subprocess.run(["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES], check=True)


@contextlib.contextmanager
def cluster(folder: Path, cpus: int | None = None, gpus: int = 0) -> Iterator[dict[str, str]]:
    """Run a cluster of one node with partition ``main`` inside the block and yield the environment variables of its clients.

    ``folder``: empty, for configuration, state and logs; its path must be short, because it holds sockets (107 characters).
    ``cpus``: CPUs of the node, which may exceed those of the machine. ``gpus``: number of stand-in GPUs, at most two; with 0 the cluster
    has no generic resources, and Slurm refuses every job that requests one.

    Raises:
        ClusterError: a daemon ended or the node was not idle within a minute.
    """
    configuration = _write_configuration(folder, cpus or os.cpu_count() or 1, gpus)
    environment = {"SLURM_CONF": str(configuration), "PATH": os.pathsep.join([str(_srun_with_configuration(folder)), _search_path()])}
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start("munged", _munged_command(folder), folder, environment))
        _wait_until(lambda: (folder / "munge.socket").exists(), "munged", daemons, folder)
        daemons.append(_start("slurmctld", ["slurmctld", "-D"], folder, environment))
        daemons.append(_start("slurmd", ["slurmd", "-D"], folder, environment))
        _wait_until(lambda: _node_state(environment) == "idle", "slurmd", daemons, folder)
        yield environment
    finally:
        # Jobs first: slurmd does not end the processes of running jobs when it ends.
        subprocess.run(["scancel", "--full", "--user", _user()], env=os.environ | environment, capture_output=True, timeout=30, check=False)
        _wait_for_end_of_jobs(environment)
        _stop(daemons)


def _write_configuration(folder: Path, cpus: int, gpus: int) -> Path:
    """Write the munge key, slurm.conf and gres.conf; the path of slurm.conf, which Slurm also looks beside for the others."""
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    for name in ("state", "spool"):
        (folder / name).mkdir()
    node, ports = socket.gethostname().partition(".")[0], _free_ports(2)
    gres = f" Gres=gpu:{gpus}" if gpus else ""
    lines = [
        "ClusterName=local",
        f"SlurmctldHost={node}(127.0.0.1)",
        f"SlurmUser={_user()}",
        f"SlurmdUser={_user()}",
        f"SlurmctldPort={ports[0]}",
        f"SlurmdPort={ports[1]}",
        f"AuthInfo=socket={folder}/munge.socket",
        f"StateSaveLocation={folder}/state",
        f"SlurmdSpoolDir={folder}/spool",
        f"SlurmctldPidFile={folder}/slurmctld.pid",
        f"SlurmdPidFile={folder}/slurmd.pid",
        # Without control groups, which need root and a service manager.
        "ProctrackType=proctrack/pgid",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        "AccountingStorageType=accounting_storage/none",
        "MpiDefault=none",
        "SwitchType=switch/none",
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_CPU_Memory",
        "SlurmdParameters=config_overrides",  # the CPUs below, even if the machine has fewer
        "ReturnToService=2",
        "KillWait=5",  # seconds between SIGTERM and SIGKILL at the time limit; 30 by default
        *(["GresTypes=gpu"] if gpus else []),
        f"NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={_memory_mb()} State=UNKNOWN{gres}",
        f"PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP",
    ]
    (folder / "slurm.conf").write_text("\n".join(lines) + "\n")
    if gpus:
        cards = [f"NodeName={node} Name=gpu File={file}" for file in STAND_IN_GPUS[:gpus]]
        (folder / "gres.conf").write_text("\n".join(cards) + "\n")
    return folder / "slurm.conf"


def _srun_with_configuration(folder: Path) -> Path:
    """A folder with an ``srun`` that knows the configuration: Snakemake's Slurm plugin removes SLURM_CONF before it calls srun in a job."""
    programs = folder / "bin"
    programs.mkdir()
    script = programs / "srun"
    srun = shlex.quote(shutil.which("srun", path=_search_path()) or "srun")
    script.write_text(f'#!/bin/sh\nSLURM_CONF={shlex.quote(str(folder / "slurm.conf"))} exec {srun} "$@"\n')
    script.chmod(0o755)
    return programs


def _munged_command(folder: Path) -> list[str]:
    files = {"socket": "munge.socket", "key-file": "munge.key", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
    return ["munged", "--foreground", "--force", *(f"--{option}={folder / name}" for option, name in files.items())]


def _start(name: str, command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    with (folder / f"{name}.out").open("wb") as output:
        # A session of its own, so that an interrupt of the terminal ends the command first and the daemons after it.
        return subprocess.Popen(command, env=os.environ | environment, stdout=output, stderr=output, start_new_session=True)


def _wait_until(ready, name: str, daemons: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > end or any(daemon.poll() is not None for daemon in daemons):
            logs = "".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in sorted(folder.glob("*.out")))
            raise ClusterError(f"{name} is not ready after {START_SECONDS} s, or a daemon ended\n{logs}")
        time.sleep(0.5)


def _node_state(environment: dict[str, str]) -> str:
    command = ["sinfo", "--noheader", "--format=%t"]
    return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False).stdout.strip()


def _wait_for_end_of_jobs(environment: dict[str, str]) -> None:
    for _ in range(20):
        command = ["squeue", "--noheader"]
        listed = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60, check=False)
        if listed.returncode or not listed.stdout.strip():
            return
        time.sleep(0.5)


def _stop(daemons: Sequence[subprocess.Popen[bytes]]) -> None:
    for daemon in reversed(daemons):
        daemon.terminate()
    for daemon in daemons:
        try:
            daemon.wait(timeout=15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])


def _user() -> str:
    return pwd.getpwuid(os.getuid()).pw_name


def _memory_mb() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2**20


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a command with a Slurm cluster of one node on this machine.")
    parser.add_argument("--install", action="store_true", help=f"install {' and '.join(PACKAGES)} first (Debian, as root)")
    parser.add_argument("--cpus", type=int, help="CPUs of the node (default: those of the machine)")
    parser.add_argument("--gpus", type=int, default=0, choices=range(len(STAND_IN_GPUS) + 1), help="number of stand-in GPUs")
    parser.add_argument("command", nargs="+", help="the command and its arguments, after --")
    options = parser.parse_args()
    if options.install:
        install()
    if missing := missing_programs():
        print(f"missing: {', '.join(missing)}; install {' and '.join(PACKAGES)}, or give --install", file=sys.stderr)
        return 2
    # SIGTERM ends the daemons too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, cluster(Path(folder), options.cpus, options.gpus) as environment:
        return subprocess.run(options.command, env=os.environ | environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
