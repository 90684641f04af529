"""Hardware of a run: device, processor kind and precision, resolved from the settings before the first job.

Outputs are reproducible bit by bit only on the same kind of processor and in the same precision, so all three are recorded and compared
like parameters (``datafree.workflow.provenance``). This module does not import PyTorch, because Snakemake imports it at every start.
"""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from datafree import gpus
from datafree.errors import UserError

# Instruction sets of x86-64 in ascending order, with the CPU flags of Linux that each needs.
INSTRUCTION_SETS = {
    "SSE4.1": {"sse4_1"},
    "AVX2": {"avx2", "fma"},
    "AVX-512": {"avx512bw", "avx512dq", "avx512vl"},
    "AVX-512 bfloat16": {"avx512_bf16"},
    "AMX": {"amx_bf16"},
}
NATIVE_BFLOAT16 = ("AVX-512 bfloat16", "AMX")
# The highest instruction set that oneDNN uses for each value of ONEDNN_MAX_CPU_ISA; oneDNN ignores other values.
LIMITS = {
    "SSE41": "SSE4.1", "AVX": "SSE4.1", "AVX2": "AVX2", "AVX2_VNNI": "AVX2", "AVX2_VNNI_2": "AVX2", "AVX512_CORE": "AVX-512",
    "AVX512_CORE_VNNI": "AVX-512", "AVX512_CORE_BF16": "AVX-512 bfloat16", "AVX512_CORE_FP16": "AVX-512 bfloat16",
    "AVX10_1_512": "AVX-512 bfloat16",
}  # fmt: skip
BFLOAT16_CAPABILITY = 8.0  # lowest CUDA compute capability with native bfloat16
GPU_OF_THE_NODE = "GPU of the node"  # the processor of a run that is planned on a machine without the GPU
BETWEEN_NAMES = " / "


@dataclass(frozen=True)
class Hardware:
    """``device``: cpu, cuda or cuda:N. ``processor``: names of the GPUs, or architecture and instruction set of the CPU.

    ``precision``: float32 or bfloat16."""

    device: str
    processor: str
    precision: str


def resolve(device: str, precision: str, accept_other: bool = False) -> Hardware:
    """The hardware for the settings ``device`` and ``precision``, in general that of this machine.

    ``device: auto`` is a GPU if the installed PyTorch can use one; ``precision: auto`` is bfloat16 if the processor computes it natively.
    With ``accept_other``, a named GPU that this machine does not have is one of another machine, on which the jobs will run, as on a
    cluster: its name is then ``GPU_OF_THE_NODE``.

    Raises:
        UserError: the machine does not have the named device, or the installed PyTorch cannot use it; with ``accept_other``: the precision
            is ``auto``, which only the other machine can determine.
    """
    try:
        uuids = gpus.require(device)
    except UserError:
        if not accept_other:
            raise
        if precision == "auto":
            raise UserError(
                f"precision: got auto, but jobs are planned for {device} of another machine; set precision to float32 or bfloat16"
            ) from None
        return Hardware(device, GPU_OF_THE_NODE, precision)
    if device == "auto":
        device = "cuda" if uuids else "cpu"
    names = _names_and_capabilities(uuids)
    if precision == "auto":
        native = min(names.values(), default=0.0) >= BFLOAT16_CAPABILITY if uuids else instruction_set() in NATIVE_BFLOAT16
        precision = "bfloat16" if native else "float32"
    return Hardware(device, BETWEEN_NAMES.join(sorted(names)) or "GPU" if uuids else processor_kind(), precision)


def of_this_machine(device: str, precision: str) -> Hardware:
    """The hardware that a job planned for ``device`` and ``precision`` computes on here; inside ``devices.use`` only the GPU in use.

    Raises:
        UserError: this machine does not have the device, or the installed PyTorch cannot use it.
    """
    return resolve(device, precision)


def mismatch(planned: Hardware, here: Hardware) -> str:
    """Why a job that was planned for one hardware must not compute on another, as one line; empty if it may.

    The number of a GPU makes no difference. A run that was planned for GPUs of several names may compute on each of them, and one that
    was planned for ``GPU_OF_THE_NODE`` on any.
    """
    same_device = planned.device.partition(":")[0] == here.device.partition(":")[0]
    names = set(here.processor.split(BETWEEN_NAMES)) <= set(planned.processor.split(BETWEEN_NAMES))
    if same_device and planned.precision == here.precision and (names or planned.processor == GPU_OF_THE_NODE):
        return ""
    return (
        f"this machine computes on {_in_words(here)}, but the run was planned for {_in_words(planned)}; use the same kind of machine, "
        "or set `accept_other_hardware: true`"
    )


def _in_words(hardware: Hardware) -> str:
    return f"{hardware.device} ({hardware.processor}) in {hardware.precision}"


def processor_kind() -> str:
    """Architecture and instruction set of the CPU, such as ``x86_64 AVX2`` or ``aarch64``, with limits from the environment."""
    full, used, vectors = _highest_instruction_set(), instruction_set(), os.environ.get("ATEN_CPU_CAPABILITY", "")
    words = [platform.machine(), used, f"limited from {full}" if used != full else "", f"ATen {vectors}" if vectors else ""]
    return " ".join(filter(None, words))


def instruction_set() -> str:
    """The highest of ``INSTRUCTION_SETS`` that the CPU has and the environment allows for convolutions; empty if unknown."""
    names, full = list(INSTRUCTION_SETS), _highest_instruction_set()
    limit = LIMITS.get((os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "").upper(), names[-1])
    return min(full, limit, key=names.index) if full else ""


def _highest_instruction_set() -> str:
    flags, highest = _cpu_flags(), ""
    for name, needed in INSTRUCTION_SETS.items():
        if not needed <= flags:
            break
        highest = name
    return highest


def _cpu_flags() -> set[str]:
    """The CPU flags that Linux reports for x86-64; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), set())


def _names_and_capabilities(uuids: list[str]) -> dict[str, float]:
    """CUDA compute capability by GPU name; of all GPUs of the machine if the driver does not list these UUIDs (MIG partitions)."""
    if not uuids:
        return {}
    command = ["nvidia-smi", "--query-gpu=uuid,name,compute_cap", "--format=csv,noheader"]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        rows = [[cell.strip() for cell in line.split(",")] for line in listing.splitlines()]
        by_uuid = {uuid: (name, float(capability)) for uuid, name, capability in rows}
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
    return dict(by_uuid[uuid] for uuid in uuids if uuid in by_uuid) or dict(by_uuid.values())
