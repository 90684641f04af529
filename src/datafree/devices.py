"""Devices and randomness: the device of a job, exclusive GPU leases, autocast, derived seeds and random generators.

Snakemake counts GPUs but does not assign them to jobs. A job therefore takes a lease: a host-wide lock on one file per GPU, so that two
pipelines or two users never share a GPU. The kernel releases the lock when the process ends for any reason.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from datafree.errors import UserError

if TYPE_CHECKING:
    import torch


_IN_USE: list[torch.device] = []  # the device of this process inside ``use``


def require(spec: str) -> list[str]:
    """UUIDs of the GPUs that match ``spec`` (see ``use``); empty for the CPU.

    Raises:
        UserError: the machine has no such device.
    """
    gpus = [] if spec == "cpu" else visible_gpus()
    if not spec.startswith("cuda"):
        return gpus
    index = int(spec.partition(":")[2] or 0)
    if index >= len(gpus):
        raise UserError(f"device: got {spec}, but this machine has {len(gpus)} visible GPUs; set `device: auto` or `device: cpu`")
    return [gpus[index]] if ":" in spec else gpus


@contextlib.contextmanager
def use(spec: str) -> Iterator[torch.device]:
    """The device for one job: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; holds a lease on a GPU.

    Must run before anything initialises CUDA, because the lease restricts CUDA_VISIBLE_DEVICES to the leased GPU. A nested ``use``
    yields the device of the outer one.

    Raises:
        UserError: the machine has no such device.
    """
    if _IN_USE:
        yield _IN_USE[-1]
        return
    gpus = require(spec)
    if gpus and not _scheduler_assigned():
        lease_or_not = lease(gpus, default_lock_folder())
    else:
        lease_or_not = contextlib.nullcontext(gpus[0] if ":" in spec else "")
    with lease_or_not as uuid:
        if uuid:
            os.environ["CUDA_VISIBLE_DEVICES"] = uuid
        import torch

        if not gpus:
            # One thread per process: jobs run in parallel, and busy-waiting threads of one slow down the others.
            torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        _IN_USE.append(torch.device("cuda" if gpus else "cpu"))
        try:
            yield _IN_USE[-1]
        finally:
            _IN_USE.pop()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a stage for ``float32`` or ``bfloat16``, which ``datafree.workflow.hardware`` chooses.

    Casts of weights are not cached: inside one long context, a cached cast would remain in use after an update of its weight.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def visible_gpus() -> list[str]:
    """UUIDs of the NVIDIA GPUs that this process may use; empty without a driver."""
    try:
        listing = subprocess.run(
            ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"], capture_output=True, text=True, timeout=30, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [line.partition(",") for line in listing.splitlines() if "," in line]
    by_index = {index.strip(): uuid.strip() for index, _, uuid in rows}
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None:
        return list(by_index.values())
    return [by_index.get(entry.strip(), entry.strip()) for entry in chosen.split(",") if entry.strip() not in ("", "-1")]


def default_lock_folder() -> Path:
    return Path(tempfile.gettempdir()) / "datafree-gpu-locks"


@contextlib.contextmanager
def lease(uuids: Sequence[str], folder: Path) -> Iterator[str]:
    """Lock one of the GPUs exclusively and yield its UUID; waits until one is free."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o1777)
    reported = False
    while True:
        for uuid in random.SystemRandom().sample(list(uuids), len(uuids)):
            handle = _open_lock(folder / f"{uuid}.lock")
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            try:
                yield uuid
            finally:
                os.close(handle)
            return
        if not reported:
            print(f"waiting for a free GPU ({len(uuids)} in use)", file=sys.stderr, flush=True)
            reported = True
        time.sleep(random.SystemRandom().uniform(0.2, 1.0))


def _open_lock(path: Path) -> int:
    # In a sticky folder, the file of another user can only be opened for reading, which is sufficient for flock.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _scheduler_assigned() -> bool:
    return "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" in os.environ


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) for one named use of randomness, independent of the number and order of other uses."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator for one named use of randomness (see ``derive_seed``)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextlib.contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Seed PyTorch's global random state for the block, then restore it: module constructors accept no generator."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
