"""GPUs: which are visible, and which PyTorch can use."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from datafree import gpus
from datafree.errors import UserError


@pytest.fixture(autouse=True)
def outside_a_scheduler(monkeypatch):
    for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID", "DATAFREE_GPU_LOCKS"):
        monkeypatch.delenv(name, raising=False)


def fake_nvidia_smi(folder: Path, monkeypatch, script: str) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.fixture
def usable(monkeypatch):
    monkeypatch.setattr(gpus, "unusable", lambda: "")


@pytest.fixture
def three_gpus(tmp_path, monkeypatch):
    fake_nvidia_smi(tmp_path, monkeypatch, 'printf "0, GPU-aa\\n1, GPU-bb\\n2, GPU-bc\\n"')


# ---- which GPUs -------------------------------------------------------------------------------------------------------------------------

IGNORED, TWICE = "is not one GPU of this machine, so CUDA ignores it and what follows", "names a GPU for the second time, so CUDA sees none"


@pytest.mark.parametrize(
    ("chosen", "expected", "notice"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-bc"], ""),
        ("", [], ""),
        ("-1", [], ""),
        ("NoDevFiles", [], ""),
        ("2,0", ["GPU-bc", "GPU-aa"], ""),
        (" 2 , 0 ", ["GPU-bc", "GPU-aa"], ""),
        ("1,", ["GPU-bb"], ""),
        ("0,1,-1", ["GPU-aa", "GPU-bb"], ""),
        ("0,-1,1", ["GPU-aa"], f"'-1' {IGNORED}"),
        ("0,7,1", ["GPU-aa"], f"'7' {IGNORED}"),
        ("3", [], f"'3' {IGNORED}"),
        ("0,1,0", [], f"'0' {TWICE}"),
        ("1gpu,2", ["GPU-bb", "GPU-bc"], ""),
        ("all", [], f"'all' {IGNORED}"),
        ("GPU-bb", ["GPU-bb"], ""),
        ("GPU-a,GPU-bc", ["GPU-aa", "GPU-bc"], ""),
        ("GPU-b", [], f"'GPU-b' {IGNORED}"),
        ("GPU-zz,GPU-aa", [], f"'GPU-zz' {IGNORED}"),
        ("GPU-aa,GPU-a", [], f"'GPU-a' {TWICE}"),
        ("GPU-aa,1", ["GPU-aa"], f"'1' {IGNORED}"),
        ("1,GPU-aa", ["GPU-bb"], f"'GPU-aa' {IGNORED}"),
        ("MIG-1234,MIG-5678", ["MIG-1234", "MIG-5678"], ""),
        ("MIG-GPU-aa/1/0,0", ["MIG-GPU-aa/1/0"], f"'0' {IGNORED}"),
        ("MIG-1,MIG-1", [], f"'MIG-1' {TWICE}"),
    ],
)
def test_visible_gpus_follow_the_rules_of_cuda(three_gpus, usable, monkeypatch, chosen, expected, notice):
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert gpus.visible_gpus() == expected
    assert gpus.notice("auto") == (notice and f"CUDA_VISIBLE_DEVICES={chosen}: {notice}")
    assert gpus.notice("cpu") == ""
    if not expected:
        with pytest.raises(UserError, match=r"^device: got cuda, but this machine has 0 visible GPUs \(CUDA_VISIBLE_DEVICES=") as raised:
            gpus.require("cuda")
        assert notice in str(raised.value)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("cpu", []),
        ("auto", ["GPU-aa", "GPU-bb", "GPU-bc"]),
        ("cuda", ["GPU-aa", "GPU-bb", "GPU-bc"]),
        ("cuda:0", ["GPU-aa"]),
        ("cuda:2", ["GPU-bc"]),
        ("cuda:3", None),
    ],
)
def test_require_returns_the_matching_gpus_or_raises(three_gpus, usable, spec, expected):
    if expected is None:
        with pytest.raises(UserError, match=f"^device: got {spec}, but this machine has 3 visible GPUs; set `device: auto`"):
            gpus.require(spec)
    else:
        assert gpus.require(spec) == expected


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'", "echo '0, [Unknown Error]'"])
def test_without_a_working_driver_there_is_no_gpu(tmp_path, monkeypatch, usable, script):
    fake_nvidia_smi(tmp_path, monkeypatch, script)
    assert gpus.visible_gpus() == gpus.require("auto") == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-aa")
    assert gpus.visible_gpus() == []


# ---- whether PyTorch can use them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "driver", "reason"),
    [
        (("2.13.0+cu126", "12.6"), 12060, ""),
        (("2.13.0+cu126", "12.6"), 12020, ""),
        (("2.13.0", "12.6"), 13000, ""),
        (("2.13.0", "13.0"), 12040, "PyTorch 2.13.0 is built for CUDA 13.0, and the driver supports only CUDA 12.4"),
        (("2.13.0", "12.6"), 0, "the library libcuda.so.1 of the driver cannot be loaded"),
        (("2.13.0+cpu", ""), 12060, "PyTorch 2.13.0+cpu is a build without CUDA"),
        (("2.13.0", ""), 12060, "PyTorch 2.13.0 is a build without CUDA"),
        (("", ""), 12060, ""),
    ],
)
def test_auto_is_the_cpu_and_says_why_if_pytorch_cannot_use_the_gpus(three_gpus, monkeypatch, build, driver, reason):
    monkeypatch.setattr(gpus, "pytorch_build", lambda: build)
    monkeypatch.setattr(gpus, "_driver_cuda", lambda: driver)
    assert gpus.unusable() == reason
    if not reason:
        assert len(gpus.require("auto")) == len(gpus.require("cuda")) == 3
        assert gpus.notice("auto") == ""
        return
    assert gpus.require("auto") == []
    assert gpus.notice("auto").startswith(f"device: auto is the CPU here, because {reason}; install")
    assert gpus.notice("cpu") == ""
    with pytest.raises(UserError) as raised:
        gpus.require("cuda:0")
    assert str(raised.value).startswith(f"device: got cuda:0, but {reason}; install")


def test_on_a_machine_without_gpus_there_is_nothing_to_say(tmp_path, monkeypatch):
    monkeypatch.setattr(gpus, "pytorch_build", lambda: ("2.13.0+cpu", ""))
    fake_nvidia_smi(tmp_path, monkeypatch, "exit 9")
    assert gpus.notice("auto") == gpus.notice("cpu") == ""


VERSION_FILES = {
    "__version__ = '2.13.0+cpu'\ndebug = False\ncuda: Optional[str] = None\ngit_version = 'x'\n": ("2.13.0+cpu", ""),
    "__version__ = '2.6.0'\ncuda: Optional[str] = '12.4'\nhip: Optional[str] = None\n": ("2.6.0", "12.4"),
    "__version__ = '2.6.0'\ncuda = '11.8'\n": ("2.6.0", "11.8"),
    "__version__ = get()\n": ("", ""),
    "": ("", ""),
    None: ("", ""),
}


@pytest.mark.parametrize(("text", "expected"), VERSION_FILES.items())
def test_the_build_of_pytorch_is_read_without_importing_it(tmp_path, text, expected):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    if text is not None:
        (tmp_path / "torch" / "version.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(gpus.__file__).parents[1])])}
    command = [sys.executable, "-c", "from datafree import gpus; print(gpus.pytorch_build())"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(expected)


def test_the_build_of_this_pytorch_is_known():
    import torch

    assert gpus.pytorch_build() == (torch.__version__, torch.version.cuda or "")
