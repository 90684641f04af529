import hashlib
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree import devices, gpus
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


# ---- the device of a job ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Two GPUs that PyTorch can use, as far as ``use`` knows; the folder of the lock files."""
    monkeypatch.setattr(gpus, "_driver_gpus", lambda: {0: "GPU-aa", 1: "GPU-bb"})
    monkeypatch.setattr(gpus, "unusable", lambda: "")
    monkeypatch.setattr(devices, "_check", lambda gpu: None)
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    return tmp_path


def test_a_job_on_the_cpu_uses_one_thread_and_takes_no_lease(two_gpus):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    with devices.use("cpu") as device:
        assert device == torch.device("cpu")
        assert torch.get_num_threads() == 1
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not list(two_gpus.iterdir())
    torch.set_num_threads(threads)


def test_only_the_leased_gpu_is_visible_to_a_job(two_gpus):
    with devices.use("cuda:1") as device:
        assert device == torch.device("cuda")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
        assert [path.name for path in two_gpus.iterdir()] == ["datafree-GPU-bb.lock"]


def test_a_nested_or_later_use_has_the_same_gpu(two_gpus):
    with devices.use("cuda:1"), devices.use("cuda:1") as device:
        assert device.type == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    with devices.use("cuda:1") as device:  # CUDA of this process knows only this GPU, now as number 0
        assert device.type == "cuda"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-bb"
    with devices.use("cpu") as device:
        assert device.type == "cpu"


def test_auto_is_the_cpu_if_pytorch_cannot_use_the_gpus(two_gpus, monkeypatch):
    monkeypatch.setattr(gpus, "unusable", lambda: "PyTorch 1 is a build without CUDA")
    threads = torch.get_num_threads()
    with devices.use("auto") as device:
        assert device.type == "cpu"
    torch.set_num_threads(threads)
    with pytest.raises(UserError, match="^device: got cuda, but PyTorch 1 is a build without CUDA; install PyTorch"), devices.use("cuda"):
        pass


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA driver initialization failed.\nat x.cpp"), AssertionError("Torch not compiled with CUDA enabled")]
)
def test_a_gpu_that_fails_at_its_first_use_gives_one_line(two_gpus, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.undo()
    monkeypatch.setattr(torch, "ones", fail)
    reason = str(error).splitlines()[0].rstrip(".")
    with pytest.raises(UserError, match=rf"^device: PyTorch \S+ cannot use GPU GPU-aa: {reason}; correct this .* set `device: cpu`$"):
        devices._check("GPU-aa")


def test_optimisers_compute_the_same_without_the_compiler_and_do_not_load_it():
    script = """
import sys
import torch
from datafree import devices
from datafree.zoo.networks import multiply_adds

def trained():
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    for kind in (torch.optim.Adam, torch.optim.AdamW, lambda weights: torch.optim.SGD(weights, 0.1, momentum=0.9, nesterov=True)):
        optimiser = kind(network.parameters())
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=4)
        for _ in range(3):
            optimiser.zero_grad()
            network(torch.ones(4, 3)).square().sum().backward()
            optimiser.step()
            schedule.step()
        optimiser.load_state_dict(optimiser.state_dict())
    assert all(weight.requires_grad and weight.grad_fn is None for weight in network.parameters())
    return network.weight.detach().clone()

with devices.use("cpu"):
    without = trained()
assert multiply_adds(torch.nn.Linear(3, 2), (3,)) == 6
assert "torch._dynamo" not in sys.modules
print(without.double().numpy().tobytes().hex())
"""
    plain = script.replace('with devices.use("cpu"):', "torch.set_num_threads(1)\nif True:").replace("not in sys.modules", "in sys.modules")
    run = [subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout for text in (script, plain)]
    assert run[0] == run[1] != ""


@pytest.mark.parametrize(("triton", "compiler", "got"), [(False, "cc", "no triton"), (True, None, "no C compiler")])
def test_a_machine_that_cannot_compile_gets_one_line(monkeypatch, triton, compiler, got):
    monkeypatch.setattr(devices.importlib.util, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(devices.shutil, "which", lambda name: compiler)
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(UserError, match=rf"inversion.compile: needs .*; got {got}; install it, or set inversion.compile: false"):
        devices.compiled(len, "inversion.compile")


# ---- copies to a device -----------------------------------------------------------------------------------------------------------------


def test_only_a_gpu_computes_together_and_keeps_what_fits_into_a_share_of_its_free_memory(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    assert (devices.together(cpu), devices.together(gpu)) == (False, True)
    assert not devices.fits(0, cpu)
    assert devices.fits(int(1000 * devices.RESIDENT_SHARE), gpu)
    assert not devices.fits(int(1000 * devices.RESIDENT_SHARE) + 1, gpu)


def test_on_a_cpu_nothing_is_copied():
    values, cpu = torch.arange(6.0).view(3, 2), torch.device("cpu")
    assert devices.moved(values, cpu) is values
    assert devices.resident(values, cpu) is values
    assert torch.equal(devices.rows(values, torch.tensor([2, 0]), cpu), values[[2, 0]])


def test_what_fits_moves_and_what_does_not_stays(monkeypatch):
    values, meta = torch.zeros(3, 2), torch.device("meta")
    for room in (True, False):
        monkeypatch.setattr(devices, "fits", lambda size, device, room=room: size == 24 and room)
        kept = devices.resident(values, meta)
        assert kept.device.type == ("meta" if room else "cpu")
        assert devices.rows(kept, torch.tensor([1]), meta).shape == (1, 2)
        assert devices.rows(kept, torch.tensor([1]), meta).device == meta
