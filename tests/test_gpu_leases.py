"""GPU leases: no two processes use one GPU; other users of the machine can neither abuse the lock files nor are they shut out."""

import contextlib
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


@pytest.fixture
def three_gpus(tmp_path, monkeypatch):
    """Makes the driver list three GPUs, also to programs that a test starts."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\nprintf '0, GPU-aa\\n1, GPU-bb\\n2, GPU-bc\\n'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(gpus, "unusable", lambda: "")


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


SHARED = """
import sys
from pathlib import Path
from datafree import gpus
with gpus.lease(["A"], Path(sys.argv[1]), int(sys.argv[2])) as uuid:
    print(uuid, flush=True)
"""


def sharing(locks: Path, jobs_per_gpu: int) -> subprocess.Popen:
    command = [sys.executable, "-c", SHARED, locks, str(jobs_per_gpu)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


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


def test_several_jobs_share_a_gpu_after_each_gpu_has_one(locks):
    with contextlib.ExitStack() as held:
        leased = [held.enter_context(gpus.lease(["A", "B"], locks, 2)) for _ in range(4)]
        assert set(leased[:2]) == set(leased[2:]) == {"A", "B"}


def test_no_more_jobs_share_a_gpu_than_allowed_and_a_place_is_free_again(tmp_path, locks):
    with gpus.lease(["A"], locks, 2), gpus.lease(["A"], locks, 2):
        third = sharing(locks, 2)
        assert third.stderr.readline() == "waiting for a free GPU (1 in use)\n"
        assert third.poll() is None
    output, _ = third.communicate(timeout=60)
    assert output == "A\n"


@pytest.mark.parametrize(("first", "second"), [(1, 2), (2, 1)])
def test_a_job_that_needs_a_gpu_for_itself_shares_it_with_none(locks, first, second):
    with gpus.lease(["A"], locks, first):
        other = subprocess.Popen(
            [sys.executable, "-c", SHARED, locks, str(second)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert other.stderr.readline() == "waiting for a free GPU (1 in use)\n"
    output, _ = other.communicate(timeout=60)
    assert output == "A\n"


def test_the_number_of_jobs_on_a_gpu_is_that_of_the_environment(locks, monkeypatch):
    monkeypatch.setenv("DATAFREE_GPU_LOCKS", str(locks))
    monkeypatch.setenv("DATAFREE_JOBS_PER_GPU", "3")
    with gpus.reserve(["A"]), gpus.lease(["A"], locks, 3), gpus.lease(["A"], locks, 3):
        assert {path.name for path in locks.iterdir()} == {"datafree-A.lock", *(f"datafree-A-{place}.lock" for place in (1, 2, 3))}


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


def test_a_second_reservation_of_a_process_in_slurm_leases_its_gpu_again(three_gpus, locks, monkeypatch):
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
