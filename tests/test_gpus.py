"""GPUs: which are visible and usable, and leases that other users of the machine can neither abuse nor are shut out of."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from datafree import gpus
from datafree.errors import UserError

OTHER_USER = 54321


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


# ---- leases -----------------------------------------------------------------------------------------------------------------------------

HOLD = """
import os, sys, time
from pathlib import Path
from datafree import gpus
folder = Path(sys.argv[1])
held = gpus.lease(sys.argv[3:], folder / "locks") if sys.argv[3:] else gpus.reserve(gpus.visible_gpus())
with held as uuid:
    marker = folder / f"{uuid}.in_use"
    os.close(os.open(marker, os.O_CREAT | os.O_EXCL))  # fails if another process holds the same one
    print(uuid, flush=True)
    time.sleep(float(sys.argv[2]))
    marker.unlink()
"""


@pytest.fixture
def locks(tmp_path) -> Path:
    folder = tmp_path / "locks"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


def holder(folder: Path, seconds: float, *uuids: str) -> subprocess.Popen:
    command = [sys.executable, "-c", HOLD, folder, str(seconds), *uuids]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_no_two_processes_lease_one_gpu(tmp_path, locks):
    processes = [holder(tmp_path, 0.05, "GPU-aa", "GPU-bb") for _ in range(4)]
    results = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [status for _, status in results] == [0] * 4, [error for (_, error), _ in results]
    assert {output.strip() for (output, _), _ in results} <= {"GPU-aa", "GPU-bb"}


def test_a_lease_ends_with_its_process_even_if_killed(tmp_path, locks):
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


def test_a_lease_ends_with_its_block_and_a_second_lease_gets_another_gpu(locks):
    descriptors = len(list(Path("/dev/fd").iterdir()))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), gpus.lease(["A"], locks) as uuid:
            assert uuid == "A"
            raise ZeroDivisionError
    with gpus.lease(["A", "B"], locks) as first, gpus.lease(["A", "B"], locks) as second:
        assert {first, second} == {"A", "B"}
    assert len(list(Path("/dev/fd").iterdir())) == descriptors


def test_a_lock_file_that_was_removed_meanwhile_is_not_relied_on(locks, monkeypatch):
    lock_file, flock, removed = locks / "datafree-A.lock", gpus.fcntl.flock, []

    def remove_first(descriptor, operation):
        if not removed:
            removed.append(lock_file.unlink())
        flock(descriptor, operation)

    monkeypatch.setattr(gpus.fcntl, "flock", remove_first)
    with gpus.lease(["A"], locks), lock_file.open() as again, pytest.raises(BlockingIOError):
        flock(again, gpus.fcntl.LOCK_EX | gpus.fcntl.LOCK_NB)
    assert removed


def test_a_uuid_cannot_name_a_file_elsewhere(locks):
    with gpus.lease(["MIG-GPU-aa/1/../../x"], locks):
        assert [path.name for path in locks.iterdir()] == ["datafree-MIG-GPU-aa_1_______x.lock"]
    assert [path.name for path in locks.parent.iterdir()] == ["locks"]


# ---- several GPUs of one Slurm job ------------------------------------------------------------------------------------------------------


def test_jobs_in_one_slurm_allocation_with_several_gpus_use_different_ones(tmp_path, three_gpus, locks, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(locks))
    processes = [holder(tmp_path, 600) for _ in range(2)]
    try:
        assert {process.stdout.readline().strip() for process in processes} == {"GPU-bb", "GPU-bc"}
        third = holder(tmp_path, 600)
        processes.append(third)
        assert third.stderr.readline() == "waiting for a free GPU (2 in use)\n"
    finally:
        for process in processes:
            process.kill()
            process.communicate(timeout=60)


def test_the_only_gpu_of_a_slurm_allocation_needs_no_lease(three_gpus, locks, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(locks))
    with gpus.reserve(gpus.visible_gpus()) as first, gpus.reserve(gpus.visible_gpus()) as second:
        assert first == second == "GPU-bb"
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
    assert not list(locks.iterdir())


def test_a_second_reservation_of_a_process_in_slurm_leases_its_gpu_again(three_gpus, usable, locks, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(locks))
    with gpus.reserve(["GPU-bb"]):
        pass
    assert gpus.require("cuda:1") == gpus.require("auto") == ["GPU-bb"]
    with gpus.reserve(["GPU-bb"]), (locks / "datafree-GPU-bb.lock").open() as again, pytest.raises(BlockingIOError):
        gpus.fcntl.flock(again, gpus.fcntl.LOCK_EX | gpus.fcntl.LOCK_NB)


# ---- other users of the machine ---------------------------------------------------------------------------------------------------------


def refused(folder: Path, place: Path, reason: str) -> None:
    line = rf"^{place}: cannot be used for GPU locks: {reason}.*; have root correct or remove it, or set DATAFREE_GPU_LOCKS"
    with pytest.raises(UserError, match=line), gpus.lease(["A"], folder):
        pass


def test_all_users_have_one_folder_unless_they_choose_another(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    assert str(gpus.default_lock_folder()) == os.path.realpath("/tmp")
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(tmp_path))
    assert gpus.default_lock_folder() == tmp_path
    with gpus.lease(["A"], tmp_path):
        assert (tmp_path / "datafree-A.lock").exists()


def test_a_link_in_place_of_the_folder_is_refused_and_what_it_names_is_not_changed(tmp_path):
    (tmp_path / "home").mkdir(mode=0o700)
    (tmp_path / "locks").symlink_to(tmp_path / "home")
    refused(tmp_path / "locks", tmp_path / "locks", "")
    assert (tmp_path / "home").stat().st_mode & 0o7777 == 0o700
    assert not list((tmp_path / "home").iterdir())


def test_no_folder_and_a_file_in_its_place_are_refused(tmp_path):
    refused(tmp_path / "locks", tmp_path / "locks", "No such file or directory")
    (tmp_path / "locks").touch()
    refused(tmp_path / "locks", tmp_path / "locks", "Not a directory")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o2775])
def test_a_folder_in_which_other_users_can_remove_locks_is_refused(locks, mode):
    locks.chmod(mode)
    refused(locks, locks, f"other users can remove files here, owner {os.geteuid()}, mode {mode:o}")


def test_a_folder_of_another_user_is_refused(locks, monkeypatch):
    if os.geteuid() == 0:
        os.chown(locks, OTHER_USER, -1)
    else:
        monkeypatch.setattr(gpus.os, "geteuid", lambda: OTHER_USER)
    refused(locks, locks, "other users can remove files here")


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "folder"])
def test_something_else_in_place_of_a_lock_file_is_refused_even_if_another_gpu_is_free(locks, kind):
    place = locks / "datafree-B.lock"
    if kind.endswith("link"):
        place.symlink_to(locks / "file")
        if kind == "link":
            (locks / "file").touch()
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    for _ in range(5):
        with pytest.raises(UserError, match=rf"^{place}: cannot be used for GPU locks: not a regular file;"), gpus.lease(["A", "B"], locks):
            pass


def test_a_lock_file_is_readable_for_all_users_whatever_the_umask_of_the_first(locks):
    before = os.umask(0o077)
    try:
        with gpus.lease(["A"], locks):
            assert [(path.name, path.stat().st_mode & 0o777) for path in locks.iterdir()] == [("datafree-A.lock", 0o444)]
    finally:
        os.umask(before)


def test_a_lock_file_that_cannot_be_created_gives_one_line(locks, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gpus, "_create_lock", full)
    refused(locks, locks / "datafree-A.lock", "No space left on device")


AS_OTHER_USER = f"""
import os, sys
from pathlib import Path
sys.path[:] = sys.argv[2:]
from datafree import gpus
from datafree.errors import UserError
opened = os.open(sys.argv[1], os.O_RDONLY)
os.setgroups([]); os.setgid({OTHER_USER}); os.setuid({OTHER_USER}); os.umask(0o077)
try:
    with gpus.lease(["A"], Path(sys.argv[1])) as uuid:
        print("leased", flush=True)
        sys.stdin.read()
except UserError as error:
    print(error)
"""


@pytest.fixture
def shared(tmp_path_factory):
    """A folder that every user can reach; tests as another user need root."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to act as another user")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o1777)
        yield Path(folder)


def other_user(folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-c", AS_OTHER_USER, folder, str(Path(gpus.__file__).parents[1]), *sys.path]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("first", ["this user", "other user"])
def test_two_users_exclude_each_other(shared, first):
    if first == "this user":
        with gpus.lease(["A"], shared):
            process = other_user(shared)
            assert process.stderr.readline() == "waiting for a free GPU (1 in use)\n"
        assert process.stdout.readline() == "leased\n"
        process.communicate(timeout=60)
        return
    process = other_user(shared)
    assert process.stdout.readline() == "leased\n"
    lock = shared / "datafree-A.lock"
    assert (lock.stat().st_uid, lock.stat().st_mode & 0o777) == (OTHER_USER, 0o444)
    with lock.open() as again, pytest.raises(BlockingIOError):
        gpus.fcntl.flock(again, gpus.fcntl.LOCK_EX | gpus.fcntl.LOCK_NB)
    process.communicate(timeout=60)
    with gpus.lease(["A"], shared) as uuid:
        assert uuid == "A"


def test_a_lock_file_that_its_owner_has_closed_to_others_gives_one_line(shared):
    (shared / "datafree-A.lock").touch(mode=0o600)
    output, _ = other_user(shared).communicate(timeout=60)
    assert output.startswith(f"{shared}/datafree-A.lock: cannot be used for GPU locks: Permission denied; have root correct")
    assert output.count("\n") == 1
