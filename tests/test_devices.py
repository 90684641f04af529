import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices
from datafree.errors import UserError

# ---- randomness -------------------------------------------------------------------------------------------------------------------------

names = st.lists(st.text("abc_-", min_size=1, max_size=3) | st.integers(0, 9), max_size=3)


def test_a_seed_is_the_hash_of_its_names():
    expected = int(hashlib.sha256(b"7/learner/2").hexdigest()[:16], 16) // 2
    assert devices.derive_seed(7, "learner", 2) == expected


@given(st.integers(0, 99), names, st.integers(0, 99), names)
def test_seeds_are_in_range_and_differ_unless_all_names_agree(seed, path, other_seed, other_path):
    first, second = devices.derive_seed(seed, *path), devices.derive_seed(other_seed, *other_path)
    assert 0 <= first < 2**63
    same = [str(part) for part in (seed, *path)] == [str(part) for part in (other_seed, *other_path)]
    assert (first == second) == same


def test_generators_repeat_and_are_independent_of_each_other_and_of_the_global_state():
    def rng(*path):
        return torch.randn(1000, generator=devices.generator(3, *path))

    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, again, other = rng("a", 1), rng("a", 1), rng("a", 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert abs(torch.corrcoef(torch.stack([first, other]))[0, 1]) < 0.15


def test_initialisation_is_seeded_and_the_global_state_is_restored_even_after_an_exception():
    before = torch.random.get_rng_state()
    with devices.seeded_initialisation(5):
        first = torch.nn.Linear(3, 3).weight
    with pytest.raises(ZeroDivisionError), devices.seeded_initialisation(5):
        second = torch.nn.Linear(3, 3).weight
        raise ZeroDivisionError
    with devices.seeded_initialisation(6):
        third = torch.nn.Linear(3, 3).weight
    assert torch.equal(first, second)
    assert not torch.equal(first, third)
    assert torch.equal(torch.random.get_rng_state(), before)


# ---- precision --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_autocast_computes_in_the_requested_precision_and_does_not_change_weights(precision, expected):
    layer = torch.nn.Conv2d(1, 1, 3)
    with devices.autocast(torch.device("cpu"), precision):
        assert layer(torch.ones(1, 1, 4, 4)).dtype == expected
    assert layer.weight.dtype == torch.float32
    assert layer(torch.ones(1, 1, 4, 4)).dtype == torch.float32


def test_an_updated_weight_is_used_immediately_inside_the_context():
    weight = torch.nn.Parameter(torch.ones(4, 4))
    with devices.autocast(torch.device("cpu"), "bfloat16"):
        first = torch.nn.functional.linear(torch.ones(1, 4), weight)
        with torch.no_grad():
            weight.mul_(2)
        second = torch.nn.functional.linear(torch.ones(1, 4), weight)
    assert torch.equal(second, 2 * first)


# ---- which device -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "gpus", "expected"),
    [
        ("cpu", ["A"], []),
        ("auto", [], []),
        ("auto", ["A", "B"], ["A", "B"]),
        ("cuda", ["A", "B"], ["A", "B"]),
        ("cuda:0", ["A", "B"], ["A"]),
        ("cuda:1", ["A", "B"], ["B"]),
        ("cuda", [], None),
        ("cuda:0", [], None),
        ("cuda:2", ["A", "B"], None),
    ],
)
def test_require_returns_the_matching_gpus_or_raises(monkeypatch, spec, gpus, expected):
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    if expected is None:
        with pytest.raises(UserError, match=f"^device: got {spec}, but this machine has {len(gpus)} visible GPUs; set `device: auto`"):
            devices.require(spec)
    else:
        assert devices.require(spec) == expected


def fake_nvidia_smi(folder, monkeypatch, script):
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (None, ["GPU-aa", "GPU-bb", "GPU-cc"]),
        ("", []),
        ("-1", []),
        ("2,0", ["GPU-cc", "GPU-aa"]),
        ("GPU-bb", ["GPU-bb"]),
    ],
)
def test_visible_gpus_are_those_of_the_driver_in_CUDA_VISIBLE_DEVICES(tmp_path, monkeypatch, chosen, expected):
    fake_nvidia_smi(tmp_path, monkeypatch, 'printf "0, GPU-aa\\n1, GPU-bb\\n2, GPU-cc\\n"')
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", chosen)
    assert devices.visible_gpus() == expected


@pytest.mark.parametrize("script", ["exit 9", "echo 'No devices were found'"])
def test_without_a_working_driver_there_is_no_gpu(tmp_path, monkeypatch, script):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    fake_nvidia_smi(tmp_path, monkeypatch, script)
    assert devices.visible_gpus() == []
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert devices.visible_gpus() == []


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    monkeypatch.setattr(devices, "visible_gpus", lambda: ["GPU-aa", "GPU-bb"])
    monkeypatch.setattr(devices, "default_lock_folder", lambda: tmp_path / "locks")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    return tmp_path / "locks"


def test_a_job_on_the_cpu_uses_one_thread_and_takes_no_lease(two_gpus):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with devices.use("cpu") as device:
        assert device == torch.device("cpu")
        assert torch.get_num_threads() == 1
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not two_gpus.exists()
    torch.set_num_threads(threads)


def test_only_the_leased_gpu_is_visible_to_a_job(two_gpus):
    with devices.use("cuda:1") as device:
        assert device == torch.device("cuda")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
        assert [path.name for path in two_gpus.iterdir()] == ["GPU-bb.lock"]


def test_a_nested_use_has_the_same_gpu_and_takes_no_other_lease(two_gpus):
    with devices.use("cuda:1"), devices.use("cuda:1") as device:
        assert device.type == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    with devices.use("cpu") as device:
        assert device.type == "cpu"


@pytest.mark.parametrize(("spec", "visible"), [("cuda", "0,1"), ("cuda:1", "GPU-bb")])
def test_no_lease_is_taken_where_a_scheduler_assigned_the_gpus(two_gpus, monkeypatch, spec, visible):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with devices.use(spec):
        assert os.environ["CUDA_VISIBLE_DEVICES"] == visible
    assert not two_gpus.exists()


# ---- the lease --------------------------------------------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from datafree import devices
folder = Path(sys.argv[1])
with devices.lease(sys.argv[3:], folder / "locks") as uuid:
    marker = folder / f"{uuid}.in_use"
    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))  # fails if another process holds the same one
    print(uuid, flush=True)
    time.sleep(float(sys.argv[2]))
    marker.unlink()
"""


def holder(folder: Path, seconds: float, *uuids: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, folder, str(seconds), *uuids]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_no_two_processes_lease_one_gpu(tmp_path):
    processes = [holder(tmp_path, 0.05, "GPU-aa", "GPU-bb") for _ in range(4)]
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 4, [error for (_, error), _ in results]
    assert {output.strip() for (output, _), _ in results} <= {"GPU-aa", "GPU-bb"}


def test_a_lease_ends_with_its_process_even_if_killed(tmp_path):
    first = holder(tmp_path, 600, "GPU-aa")
    assert first.stdout.readline() == "GPU-aa\n"
    second = holder(tmp_path, 0, "GPU-aa")
    assert second.stderr.readline() == "waiting for a free GPU (1 in use)\n"
    assert second.poll() is None
    (tmp_path / "GPU-aa.in_use").unlink()
    first.kill()
    first.communicate(timeout=60)
    output, _ = second.communicate(timeout=60)
    assert (output, second.returncode) == ("GPU-aa\n", 0)


def test_a_lease_ends_with_its_block_and_a_second_lease_gets_another_gpu(tmp_path):
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), devices.lease(["A"], tmp_path) as uuid:
            assert uuid == "A"
            raise ZeroDivisionError
    with devices.lease(["A", "B"], tmp_path) as first, devices.lease(["A", "B"], tmp_path) as second:
        assert {first, second} == {"A", "B"}
    assert (tmp_path.stat().st_mode & 0o1777) == 0o1777  # other users of the machine use the same folder
