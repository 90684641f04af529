import os
import platform
from dataclasses import replace

import pytest
import torch

from datafree.errors import UserError
from datafree.workflow import hardware
from datafree.workflow.hardware import Hardware

SSE = "fpu sse4_1 sse4_2"
AVX2 = f"{SSE} avx avx2 fma"
AVX512 = f"{AVX2} avx512f avx512bw avx512dq avx512vl"
BFLOAT16 = f"{AVX512} avx512_bf16"
AMX = f"{BFLOAT16} amx_bf16 amx_tile"


@pytest.fixture
def machine(monkeypatch):
    """Simulates a CPU, GPUs and a build of PyTorch."""
    for name in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")

    def simulate(flags="", gpus=None, unusable="", limit=""):
        monkeypatch.setattr(hardware, "_cpu_flags", lambda: set(flags.split()))
        monkeypatch.setattr(hardware.gpus, "_driver_gpus", lambda: dict(enumerate(gpus or {})))
        monkeypatch.setattr(hardware, "_names_and_capabilities", lambda uuids: dict(gpus[uuid] for uuid in uuids))
        monkeypatch.setattr(hardware.gpus, "unusable", lambda: unusable)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)

    return simulate


@pytest.mark.parametrize(
    ("flags", "limit", "kind", "precision"),
    [
        (SSE, "", "x86_64 SSE4.1", "float32"),
        (AVX2, "", "x86_64 AVX2", "float32"),
        (AVX512, "", "x86_64 AVX-512", "float32"),
        (BFLOAT16, "", "x86_64 AVX-512 bfloat16", "bfloat16"),
        (AMX, "", "x86_64 AMX", "bfloat16"),
        (AMX, "AVX2", "x86_64 AVX2 limited from AMX", "float32"),
        (AMX, "avx512_core", "x86_64 AVX-512 limited from AMX", "float32"),
        (AMX, "AVX512_CORE_BF16", "x86_64 AVX-512 bfloat16 limited from AMX", "bfloat16"),
        (AMX, "SSE41", "x86_64 SSE4.1 limited from AMX", "float32"),
        (AMX, "AVX", "x86_64 SSE4.1 limited from AMX", "float32"),
        (AMX, "AVX2x", "x86_64 AMX", "bfloat16"),
        (AMX, "DEFAULT", "x86_64 AMX", "bfloat16"),
        (AVX2, "AVX512_CORE_AMX", "x86_64 AVX2", "float32"),
        ("", "", "x86_64", "float32"),
    ],
)
def test_the_kind_of_a_cpu_is_its_instruction_set_within_the_limit_of_the_environment(machine, flags, limit, kind, precision):
    machine(flags, limit=limit)
    assert hardware.resolve("auto", "auto") == Hardware("cpu", kind, precision)
    assert hardware.resolve("cpu", "bfloat16") == Hardware("cpu", kind, "bfloat16")


def test_other_variables_that_change_the_arithmetic_are_part_of_the_kind(machine, monkeypatch):
    machine(AVX512)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert hardware.processor_kind() == "x86_64 AVX-512 ATen avx2"
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert hardware.processor_kind() == "x86_64 AVX2 limited from AVX-512 ATen avx2"


def test_the_kind_of_a_cpu_without_known_flags_is_its_architecture(machine, monkeypatch):
    machine()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert hardware.resolve("auto", "auto") == Hardware("cpu", "aarch64", "float32")


GPUS = {"GPU-a": ("NVIDIA H100", 9.0), "GPU-b": ("NVIDIA H100", 9.0), "GPU-c": ("Tesla T4", 7.5)}


@pytest.mark.parametrize(
    ("device", "gpus", "unusable", "expected"),
    [
        ("auto", "ab", "", Hardware("cuda", "NVIDIA H100", "bfloat16")),
        ("auto", "abc", "", Hardware("cuda", "NVIDIA H100 / Tesla T4", "float32")),
        ("cuda:2", "abc", "", Hardware("cuda:2", "Tesla T4", "float32")),
        ("cuda:0", "abc", "", Hardware("cuda:0", "NVIDIA H100", "bfloat16")),
        ("cpu", "ab", "", Hardware("cpu", "x86_64 AVX2", "float32")),
        ("auto", "ab", "a build without CUDA", Hardware("cpu", "x86_64 AVX2", "float32")),
        ("auto", "", "", Hardware("cpu", "x86_64 AVX2", "float32")),
    ],
)
def test_auto_is_a_gpu_if_pytorch_can_use_one(machine, device, gpus, unusable, expected):
    machine(AVX2, {f"GPU-{letter}": GPUS[f"GPU-{letter}"] for letter in gpus}, unusable)
    assert hardware.resolve(device, "auto") == expected


def test_a_named_gpu_that_does_not_exist_is_refused(machine):
    machine(AVX2)
    with pytest.raises(UserError, match="^device: got cuda:1, but this machine has 0 visible GPUs"):
        hardware.resolve("cuda:1", "auto")


def test_a_gpu_that_the_installed_pytorch_cannot_use_is_refused(machine):
    machine(AVX2, GPUS, "PyTorch 2.13.0+cpu is a build without CUDA")
    with pytest.raises(UserError, match=r"^device: got cuda:1, but PyTorch 2.13.0\+cpu is a build without CUDA; install"):
        hardware.resolve("cuda:1", "auto")


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_jobs_can_be_planned_for_a_gpu_of_another_machine_in_a_fixed_precision(machine, device):
    machine(AMX)
    planned = hardware.resolve(device, "bfloat16", accept_other=True)
    assert planned == Hardware(device, "GPU of the node", "bfloat16")
    with pytest.raises(UserError, match=f"^precision: got auto, but jobs are planned for {device} of another machine; set precision to"):
        hardware.resolve(device, "auto", accept_other=True)
    with pytest.raises(UserError, match=f"^device: got {device}, but this machine has 0 visible GPUs"):
        hardware.of_this_machine(device, "bfloat16")
    machine(AVX2, GPUS)
    here = hardware.of_this_machine("cuda:1", "bfloat16")
    assert here == Hardware("cuda:1", "NVIDIA H100", "bfloat16")
    assert hardware.mismatch(planned, here) == ""


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:2"])
def test_the_plan_is_for_this_machine_if_it_has_the_device(machine, device):
    machine(AMX, GPUS)
    assert hardware.resolve(device, "auto", accept_other=True) == hardware.resolve(device, "auto")


def test_the_hardware_of_a_job_is_the_gpu_that_it_uses(machine, monkeypatch, tmp_path):
    machine(AVX2, GPUS)
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(tmp_path))
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    planned = hardware.resolve("cuda", "auto")
    with hardware.gpus.reserve(["GPU-c"]):
        here = hardware.of_this_machine(planned.device, planned.precision)
    assert here == Hardware("cuda", "Tesla T4", "float32")
    assert hardware.mismatch(planned, here) == ""


H100, T4 = Hardware("cuda", "NVIDIA H100", "bfloat16"), Hardware("cuda", "Tesla T4", "bfloat16")


@pytest.mark.parametrize(
    ("planned", "here", "allowed"),
    [
        (H100, H100, True),
        (H100, replace(H100, device="cuda:1"), True),
        (replace(H100, device="cuda:1"), replace(H100, device="cuda:0"), True),
        (replace(H100, processor="NVIDIA H100 / Tesla T4"), T4, True),
        (replace(H100, processor=hardware.GPU_OF_THE_NODE), T4, True),
        (H100, T4, False),
        (T4, replace(H100, processor="NVIDIA H100 / Tesla T4"), False),
        (H100, replace(H100, precision="float32"), False),
        (replace(H100, processor=hardware.GPU_OF_THE_NODE), replace(T4, precision="float32"), False),
        (replace(H100, processor=hardware.GPU_OF_THE_NODE), Hardware("cpu", "x86_64 AMX", "bfloat16"), False),
        (Hardware("cpu", "x86_64 AMX", "bfloat16"), Hardware("cpu", "x86_64 AVX2", "bfloat16"), False),
    ],
)
def test_a_job_on_other_hardware_than_planned_is_told_so_in_one_line(planned, here, allowed):
    reason = hardware.mismatch(planned, here)
    assert (reason == "") == allowed
    if not allowed:
        assert f"this machine computes on {here.device} ({here.processor}) in {here.precision}" in reason
        assert f"planned for {planned.device} ({planned.processor}) in {planned.precision}; " in reason


@pytest.mark.parametrize(
    ("script", "uuids", "expected"),
    [
        ('printf "GPU-a, NVIDIA H100, 9.0\\nGPU-b, Tesla T4, 7.5\\n"', ["GPU-b"], {"Tesla T4": 7.5}),
        ('printf "GPU-a, NVIDIA H100, 9.0\\n"', ["MIG-1"], {"NVIDIA H100": 9.0}),
        ('printf "GPU-a, Tesla K80, [N/A]\\n"', ["GPU-a"], {}),
        ("exit 6", ["GPU-a"], {}),
        ("exit 6", [], {}),
    ],
)
def test_name_and_capability_come_from_the_driver(tmp_path, monkeypatch, script, uuids, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert hardware._names_and_capabilities(uuids) == expected


def test_an_unknown_gpu_computes_in_float32(monkeypatch):
    monkeypatch.setattr(hardware.gpus, "require", lambda device: ["GPU-a"])
    monkeypatch.setattr(hardware, "_names_and_capabilities", lambda uuids: {})
    assert hardware.resolve("cuda", "auto") == Hardware("cuda", "GPU", "float32")


@pytest.mark.skipif(not hardware._cpu_flags(), reason="no x86-64 CPU under Linux")
def test_the_instruction_set_of_this_machine_agrees_with_pytorch(monkeypatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    capability, name = torch.backends.cpu.get_cpu_capability(), hardware.instruction_set()
    assert (capability == "AVX512") <= ("AVX-512" in name or name == "AMX")
    assert (capability == "AVX2") <= (name in ("AVX2", "AVX-512"))
    assert name in hardware.INSTRUCTION_SETS
