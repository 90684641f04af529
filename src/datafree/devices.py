"""Which device a job runs on, who else may use it meanwhile, and where randomness comes from.

Snakemake counts GPUs but does not say which one a job gets. A job therefore takes a lease: a lock on one file per GPU, host-wide, so
that two pipelines or two users cannot meet on one card. The kernel frees the lock when the process ends, however it ends.
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


_IN_USE: list[torch.device] = []  # the one device of the running process, while it has one


def require(spec: str) -> list[str]:
    """UUIDs of the GPUs that may serve ``spec``; empty for the CPU.

    Raises:
        UserError: the machine has no such device.
    """
    gpus = [] if spec == "cpu" else visible_gpus()
    if not spec.startswith("cuda"):
        return gpus
    index = int(spec.partition(":")[2] or 0)
    if index >= len(gpus):
        raise UserError(f"device: got {spec}, but this machine shows {len(gpus)} GPUs; set `device: auto` or `device: cpu`")
    return [gpus[index]] if ":" in spec else gpus


@contextlib.contextmanager
def use(spec: str) -> Iterator[torch.device]:
    """The device for one job: ``auto`` (a GPU if there is one), ``cpu``, ``cuda`` or ``cuda:N``; holds a lease on a GPU.

    Must run before anything initialises CUDA, because the lease narrows CUDA_VISIBLE_DEVICES to the leased card. Within the block of
    another use, the device is that one's.

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
            # One thread per process: jobs run side by side, and spinning threads of one starve the other.
            torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        _IN_USE.append(torch.device("cuda" if gpus else "cpu"))
        try:
            yield _IN_USE[-1]
        finally:
            _IN_USE.pop()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The context for a stage's computing in ``float32`` or ``bfloat16``; see ``datafree.workflow.hardware`` for which.

    Casts of weights are not cached: a cached cast would outlive the update of its weight inside one long context.
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
    """Hold one of the GPUs exclusively; waits until one is free. Yields its UUID."""
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(PermissionError):
        folder.chmod(0o1777)
    told = False
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
        if not told:
            print(f"waiting for a free GPU ({len(uuids)} in use)", file=sys.stderr, flush=True)
            told = True
        time.sleep(random.SystemRandom().uniform(0.2, 1.0))


def _open_lock(path: Path) -> int:
    # Another user's file in a sticky folder may be opened for reading only, which is all that flock needs.
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o644))
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _scheduler_assigned() -> bool:
    return "SLURM_JOB_ID" in os.environ and "CUDA_VISIBLE_DEVICES" in os.environ


def derive_seed(seed: int, *names: str | int) -> int:
    """A seed in [0, 2^63) for one named use of randomness: independent of how many others there are and of their order."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator for one named use (see ``derive_seed``)."""
    import torch

    return torch.Generator(device=device).manual_seed(derive_seed(seed, *names))


@contextlib.contextmanager
def seeded_initialisation(seed: int) -> Iterator[None]:
    """Module constructors draw from PyTorch's global state and take no generator: seed it for the block, then restore it."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
