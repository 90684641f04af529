"""Devices and randomness: the device of a job, autocast, derived seeds and random generators."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import inspect
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from datafree import gpus
from datafree.errors import UserError

if TYPE_CHECKING:
    import torch

Given = ParamSpec("Given")
Result = TypeVar("Result")
# Beginnings of errors of CUDA and its libraries that PyTorch raises as plain RuntimeErrors.
LOST = ("CUDA error", "cuDNN error", "cuBLAS error", "CUDA driver error")
RESIDENT_SHARE = 0.3  # of a GPU's free memory, for images that stay there; the rest is for networks and batches
_IN_USE: list[torch.device] = []  # the device of this process inside ``use``


@contextlib.contextmanager
def use(spec: str) -> Iterator[torch.device]:
    """The device for one job: ``auto`` (a GPU that PyTorch can use, if there is one), ``cpu``, ``cuda`` or ``cuda:N``.

    Holds a lease on a GPU (``gpus.reserve``), and makes it the only visible one. Must therefore run before anything initialises CUDA.
    A nested ``use`` yields the device of the outer one.

    Raises:
        UserError: the machine has no such device, PyTorch cannot use it, or the folder of the GPU locks cannot be used.
    """
    if _IN_USE:
        yield _IN_USE[-1]
        return
    matching = gpus.require(spec)
    with gpus.reserve(matching) if matching else contextlib.nullcontext("") as gpu:
        import torch

        if gpu:
            _check(gpu)
        else:
            # One thread per process: jobs run in parallel, and busy-waiting threads of one slow down the others.
            torch.set_num_threads(1)
        torch.backends.cudnn.benchmark = False
        leave_out_compiler()
        _IN_USE.append(torch.device("cuda" if gpu else "cpu"))
        try:
            yield _IN_USE[-1]
        finally:
            _IN_USE.pop()


@functools.cache
def leave_out_compiler() -> None:
    """Make PyTorch's optimisers and its FLOP counter work without the check whether ``torch.compile`` is at work, which nothing here uses.

    The check imports the compiler, which takes two CPU seconds in every process.
    """
    import torch
    from torch.utils import flop_counter

    base = torch.optim.Optimizer
    for name in ("add_param_group", "zero_grad", "state_dict", "load_state_dict"):
        setattr(base, name, inspect.unwrap(getattr(base, name)))
    for optimiser in (torch.optim.Adam, torch.optim.SGD):  # AdamW has the step of Adam
        setattr(optimiser, "step", torch.no_grad()(inspect.unwrap(optimiser.step)))  # noqa: B010
    counter = flop_counter._FlopCounterMode
    setattr(counter, "__torch_dispatch__", inspect.unwrap(counter.__torch_dispatch__))  # noqa: B010


@functools.cache
def compiled(function: Callable[Given, Result], setting: str) -> Callable[Given, Result]:
    """The function, compiled for a GPU at its first call with each combination of shapes. ``setting``: its name in the settings.

    Raises:
        UserError: what the compiler needs is missing.
    """
    import torch

    compiler = os.environ.get("CC") or next(filter(shutil.which, ("cc", "gcc", "clang")), None)
    if importlib.util.find_spec("triton") is None or not compiler:
        raise UserError(
            f"{setting}: needs the package triton, which PyTorch for CUDA on Linux installs, and a C compiler (gcc or clang); "
            f"got {'no triton' if compiler else 'no C compiler'}; install it, or set {setting}: false"
        )
    return torch.compile(function, dynamic=False)


def _check(gpu: str) -> None:
    """Run one operation on the GPU.

    Raises:
        UserError: PyTorch cannot initialise CUDA, or has no code for this GPU.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns of what the exception then says
            torch.ones((), device="cuda").item()
    except (RuntimeError, AssertionError) as error:  # AssertionError: a build without CUDA
        reason = (str(error).splitlines() or ["unknown error"])[0].rstrip(".")
        raise UserError(
            f"device: PyTorch {torch.__version__} cannot use GPU {gpu}: {reason}; correct this (see `nvidia-smi`), or set `device: cpu`"
        ) from None


def lost(error: RuntimeError) -> str:
    """What CUDA reported in an error after which this process cannot use its GPU any more, in one line; empty for other errors.

    A lack of memory is none of them.
    """
    text = " ".join((str(error).splitlines() or [""])[:1])
    torch = sys.modules.get("torch")  # not loaded by every process
    of_cuda = text.startswith(LOST) or isinstance(error, getattr(torch, "AcceleratorError", ()))  # a type since PyTorch 2.8
    return text if of_cuda and not out_of_memory(error) else ""


def out_of_memory(error: RuntimeError) -> bool:
    """Whether PyTorch found no free memory on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """The autocast context of a stage for ``float32`` or ``bfloat16``, which ``datafree.workflow.hardware`` chooses.

    Casts of weights are not cached: inside one long context, a cached cast would remain in use after an update of its weight.
    """
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


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


def together(device: torch.device) -> bool:
    """Whether several networks of one architecture, or several tasks of one network, are computed in one pass on this device.

    On a GPU this replaces many small kernels by few large ones. On a CPU grouped convolutions are slower than a loop.
    """
    return device.type == "cuda"


def free_bytes(device: torch.device) -> int:
    """The memory of a GPU in bytes that this process can still use, its allocator's unused part included; on a CPU always 1 GiB."""
    import torch

    if device.type != "cuda":
        return 2**30
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def moved(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` on a device. From pinned memory a GPU copies while this process goes on; from other memory the process would wait."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()
    return values.to(device, non_blocking=True)


def fits(size: int, device: torch.device) -> bool:
    """Whether ``size`` bytes may stay on a device for a whole job: on a GPU at most a share of its free memory; nothing moves to a CPU."""
    return device.type == "cuda" and size <= RESIDENT_SHARE * free_bytes(device)


def resident(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values`` of the CPU where a job keeps them: on the device if they fit there (see ``fits``), otherwise as they are."""
    # Not through pinned memory: PyTorch would keep as much of it, up to the next power of two, until the process ends.
    return values.to(device) if fits(values.nbytes, device) else values


def rows(values: torch.Tensor, index: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``values[index]`` on a device, chosen where ``values`` is: of a ``resident`` tensor only ``index``, int64 on the CPU, is copied."""
    return moved(values[moved(index, values.device)], device)
