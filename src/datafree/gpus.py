"""NVIDIA GPUs: those that this process may use, whether PyTorch can use them, and exclusive leases on them.

Snakemake counts GPUs but does not assign them to jobs. A job therefore takes a lease: a lock on one file per GPU, which all users of the
machine share, so that two pipelines or two users never compute on one GPU. The kernel releases the lock when the process ends for any
reason. If ``jobs_per_gpu`` lets several jobs share a GPU, each holds a shared lock on this file and an exclusive one on the file of its
place, so a job that needs the GPU for itself still excludes all others. This module does not import PyTorch: Snakemake imports it.
"""

from __future__ import annotations

import ast
import contextlib
import ctypes
import fcntl
import importlib.util
import os
import random
import re
import secrets
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from datafree.errors import UserError

LOCK_FOLDER = "DATAFREE_GPU_LOCKS"  # environment variable: the folder of the lock files
JOBS_PER_GPU = "DATAFREE_JOBS_PER_GPU"  # environment variable: how many jobs may share a GPU
VISIBLE = "CUDA_VISIBLE_DEVICES"
NO_GPU = ("", "-1", "NoDevFiles")  # entries that users and schedulers write to hide all GPUs
# User id of files whose owner has none inside a container; the folder /tmp of the machine belongs to it there.
UNMAPPED_USER = 65534

_RESERVED: list[str] = []  # the GPU of this process: once CUDA is initialised, it cannot use another one


# ---- which GPUs -------------------------------------------------------------------------------------------------------------------------


def require(spec: str) -> list[str]:
    """UUIDs of the GPUs that match ``spec``: ``auto`` (the GPUs that PyTorch can use), ``cpu``, ``cuda`` or ``cuda:N``; empty for the CPU.

    After ``reserve``, the reserved GPU is the only one that matches.

    Raises:
        UserError: the machine has no such GPU, or the installed PyTorch cannot use it.
    """
    if spec == "cpu":
        return []
    if _reserved():
        return _reserved()
    gpus, ignored = _select(_driver_gpus(), os.environ.get(VISIBLE))
    reason = unusable() if gpus else ""
    if spec == "auto":
        return [] if reason else gpus
    if reason:
        raise UserError(f"device: got {spec}, but {reason}; install PyTorch for CUDA and this driver, or set `device: cpu`")
    index = int(spec.partition(":")[2] or 0)
    if index >= len(gpus):
        hidden = ignored or (f"{VISIBLE}={os.environ[VISIBLE]}" if VISIBLE in os.environ else "")
        why = f" ({hidden})" if hidden else ""
        raise UserError(f"device: got {spec}, but this machine has {len(gpus)} visible GPUs{why}; set `device: auto` or `device: cpu`")
    return [gpus[index]] if ":" in spec else gpus


def notice(spec: str) -> str:
    """One line for the start of a run: why ``auto`` is the CPU although there is a GPU, or which entries of CUDA_VISIBLE_DEVICES CUDA
    ignores; empty if there is nothing to say."""
    reason, chosen = unusable(), os.environ.get(VISIBLE)
    if spec == "cpu" or not (reason or chosen):
        return ""
    gpus, ignored = _select(_driver_gpus(), chosen)
    if gpus and reason and spec == "auto":
        return f"device: auto is the CPU here, because {reason}; install PyTorch for CUDA and this driver to use the GPU"
    return ignored


def visible_gpus() -> list[str]:
    """UUIDs of the NVIDIA GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES; empty without a driver.

    Indices are those of nvidia-smi.
    """
    return _select(_driver_gpus(), os.environ.get(VISIBLE))[0]


def _driver_gpus() -> dict[int, str]:
    """UUIDs of all GPUs that the driver lists, by index."""
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return {int(index): uuid for index, uuid in re.findall(r"^\s*(\d+)\s*,\s*(\S+)\s*$", listing, re.MULTILINE)}


def _select(gpus: dict[int, str], chosen: str | None) -> tuple[list[str], str]:
    """The UUIDs that CUDA selects by a value of CUDA_VISIBLE_DEVICES, and one line on what it ignores, empty if nothing.

    CUDA reads the entries up to the first that is no GPU. All entries are indices, or all are beginnings of UUIDs, like the first one.
    With a GPU named twice, none is visible.
    """
    if chosen is None or not gpus:
        return list(gpus.values()), ""
    selected: list[str] = []
    entries = chosen.split(",")
    kind = next((prefix for prefix in ("GPU-", "MIG-") if chosen.startswith(prefix)), "")
    for place, entry in enumerate(entries):
        uuid = _selected_by(entry, kind, gpus)
        if not uuid:
            if all(other.strip() in NO_GPU for other in entries[place:]):
                return selected, ""
            return selected, f"{VISIBLE}={chosen}: {entry.strip()!r} is not one GPU of this machine, so CUDA ignores it and what follows"
        if uuid in selected:
            return [], f"{VISIBLE}={chosen}: {entry.strip()!r} names a GPU for the second time, so CUDA sees none"
        selected.append(uuid)
    return selected, ""


def _selected_by(entry: str, kind: str, gpus: dict[int, str]) -> str:
    """The UUID for one entry of CUDA_VISIBLE_DEVICES; empty if it is none."""
    if kind == "MIG-":  # partitions of a GPU, which the driver does not list among its GPUs
        return entry if entry.startswith(kind) else ""
    if kind:
        matching = [uuid for uuid in gpus.values() if entry.startswith(kind) and uuid.startswith(entry)]
        return matching[0] if len(matching) == 1 else ""
    number = re.match(r"\s*\+?(\d+)", entry)  # like strtoul: what follows the digits does not count
    return gpus.get(int(number[1]), "") if number else ""


# ---- whether PyTorch can use them -------------------------------------------------------------------------------------------------------


def unusable() -> str:
    """Why the installed PyTorch cannot use an NVIDIA GPU of this machine; empty if it can, or if PyTorch is not installed."""
    version, cuda = pytorch_build()
    if not version:
        return ""
    if not cuda:
        return f"PyTorch {version} is a build without CUDA"
    driver = _driver_cuda()
    if not driver:
        return "the library libcuda.so.1 of the driver cannot be loaded"
    if driver // 1000 < int(cuda.partition(".")[0]):  # within one major version, CUDA programs run on older drivers
        return f"PyTorch {version} is built for CUDA {cuda}, and the driver supports only CUDA {driver // 1000}.{driver % 1000 // 10}"
    return ""


def pytorch_build() -> tuple[str, str]:
    """Version of the installed PyTorch and of its CUDA, read without importing it; empty if not installed, or built without CUDA."""
    spec = importlib.util.find_spec("torch")
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8") if spec and spec.origin else ""
        values = dict(re.findall(r"^(__version__|cuda)\b[^=\n]*=\s*(.+)$", text, re.MULTILINE))
        return ast.literal_eval(values.get("__version__", "''")), ast.literal_eval(values.get("cuda", "''")) or ""
    except (OSError, ValueError, SyntaxError):
        return "", ""


def _driver_cuda() -> int:
    """The highest CUDA version that the driver supports, as 1000 · major + 10 · minor; 0 if its library cannot be loaded."""
    version = ctypes.c_int(0)
    try:
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))  # does not initialise CUDA
    except (OSError, AttributeError):
        return 0
    return version.value


# ---- leases -----------------------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def reserve(gpus: Sequence[str]) -> Iterator[str]:
    """Lease one of the GPUs (``lease``), make it the only visible one of this process and yield its UUID.

    Inside a Slurm job with one visible GPU, that GPU is used without a lease: Slurm has assigned it. Among several GPUs of one Slurm job,
    leases assign the GPUs to the jobs of a pipeline that runs inside it. Must run before anything initialises CUDA.

    Raises:
        UserError: the folder of the lock files, or a lock file, cannot be used.
    """
    if "SLURM_JOB_ID" in os.environ and "," not in os.environ.get(VISIBLE, ",") and not _reserved():
        yield gpus[0]
        return
    with lease(gpus, default_lock_folder(), int(os.environ.get(JOBS_PER_GPU, "1"))) as uuid:
        os.environ[VISIBLE] = uuid
        _RESERVED[:] = [uuid]
        yield uuid


def _reserved() -> list[str]:
    return [uuid for uuid in _RESERVED if os.environ.get(VISIBLE) == uuid]


def default_lock_folder() -> Path:
    """DATAFREE_GPU_LOCKS, or /tmp: it exists everywhere, belongs to root, and is the same folder for all users, whatever their TMPDIR."""
    return Path(os.environ.get(LOCK_FOLDER) or os.path.realpath("/tmp"))


@contextlib.contextmanager
def lease(uuids: Sequence[str], folder: Path, jobs_per_gpu: int = 1) -> Iterator[str]:
    """Lock one of the GPUs and yield its UUID; waits until one is free.

    The lock is exclusive, or with several ``jobs_per_gpu`` shared by at most this number of leases.

    ``folder`` must belong to root or to this user. If other users may write to it, it must be sticky, so that they cannot remove locks.

    Raises:
        UserError: the folder or a lock file cannot be used, for example because another user has put something else in its place.
    """
    opened = _open_folder(folder)
    try:
        for uuid in uuids:
            os.close(_open_lock(folder, opened, uuid))  # an unusable lock file is an error even if another GPU is free
        reported = False
        while True:
            for place in range(jobs_per_gpu):  # the first place of every GPU before the second of any
                for uuid in random.SystemRandom().sample(list(uuids), len(uuids)):
                    with _place(folder, opened, uuid, place if jobs_per_gpu > 1 else None) as held:
                        if held:
                            yield uuid
                            return
            if not reported:
                print(f"waiting for a free GPU ({len(uuids)} in use)", file=sys.stderr, flush=True)
                reported = True
            time.sleep(random.SystemRandom().uniform(0.2, 1.0))
    finally:
        os.close(opened)


@contextlib.contextmanager
def _place(folder: Path, opened: int, uuid: str, place: int | None) -> Iterator[bool]:
    """Whether the locks of one place of a GPU could be taken, which are held in the block; None: the whole GPU."""
    names = {uuid: fcntl.LOCK_EX} if place is None else {uuid: fcntl.LOCK_SH, f"{uuid}-{place + 1}": fcntl.LOCK_EX}
    with contextlib.ExitStack() as held:
        for name, kind in names.items():
            lock = _try_lock(folder, opened, name, kind)
            if lock is None:
                yield False
                return
            held.callback(os.close, lock)
        yield True


def _open_folder(folder: Path) -> int:
    try:
        opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise _unusable_lock(folder, error.strerror or "cannot be opened") from None
    status = os.fstat(opened)
    safe_owner = status.st_uid in (0, UNMAPPED_USER, os.geteuid())
    others_can_remove = status.st_mode & 0o022 and not status.st_mode & stat.S_ISVTX
    if safe_owner and not others_can_remove:
        return opened
    os.close(opened)
    raise _unusable_lock(folder, f"other users can remove files here, owner {status.st_uid}, mode {stat.S_IMODE(status.st_mode):o}")


def _try_lock(folder: Path, opened: int, uuid: str, kind: int) -> int | None:
    """A descriptor of the lock file of a GPU with a lock of this kind, or None if another process holds one that excludes it."""
    while True:
        lock = _open_lock(folder, opened, uuid)
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
            # If the file has been removed since it was opened, by a program that tidies /tmp, other processes do not see this lock.
            status = os.stat(_lock_name(uuid), dir_fd=opened, follow_symlinks=False)
            if os.path.samestat(status, os.fstat(lock)):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            os.close(lock)
            raise _unusable_lock(folder / _lock_name(uuid), error.strerror or "cannot be locked") from None
        os.close(lock)


def _open_lock(folder: Path, opened: int, uuid: str) -> int:
    """A descriptor of the lock file of a GPU, for reading, which is sufficient for a lock and possible for a file of another user."""
    name = _lock_name(uuid)
    try:
        while True:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, dir_fd=opened, follow_symlinks=False).st_mode):
                    raise _unusable_lock(folder / name, "not a regular file")
                return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=opened)
            _create_lock(name, opened)
    except OSError as error:
        raise _unusable_lock(folder / name, error.strerror or "cannot be opened") from None


def _create_lock(name: str, opened: int) -> None:
    """Create an empty file that every user may read, whatever the umask, unless it exists; at no time with other permissions."""
    temporary = f".{name}.{secrets.token_hex(8)}"
    created = os.open(temporary, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444, dir_fd=opened)
    try:
        os.fchmod(created, 0o444)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, name, src_dir_fd=opened, dst_dir_fd=opened)
    finally:
        os.close(created)
        os.unlink(temporary, dir_fd=opened)


def _lock_name(uuid: str) -> str:
    return f"datafree-{re.sub(r'[^A-Za-z0-9-]', '_', uuid)}.lock"


def _unusable_lock(path: Path, reason: str) -> UserError:
    return UserError(
        f"{path}: cannot be used for GPU locks: {reason}; have root correct or remove it, or set {LOCK_FOLDER} to a folder that all "
        "users of the GPUs share (root's, mode 1777), or to your own folder if nobody else uses them"
    )
