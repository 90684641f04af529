import hashlib
import os

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.zoo import hashing


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and was written a while ago; ``reads`` counts how often it was hashed."""
    monkeypatch.setattr(hashing, "WORTH_A_RECORD", 10)
    monkeypatch.setattr(hashing, "SETTLED", -1.0)  # the change time of a new file cannot be set back
    reads = []
    original = artifacts.sha256
    monkeypatch.setattr(artifacts, "sha256", lambda path: reads.append(path) or original(path))
    path = tmp_path / "w.pth"
    path.write_bytes(b"a" * 20)
    return path, tmp_path / "records", reads


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_large_file_is_hashed_once(large):
    path, records, reads = large
    assert hashing.sha256(path, records) == hashing.sha256(path, records) == digest(path)
    assert len(reads) == 1
    assert len(list(records.iterdir())) == 1


@pytest.mark.parametrize("change", ["content", "content with its old time", "another file in its place"])
def test_a_change_is_noticed(large, change):
    path, records, reads = large
    hashing.sha256(path, records)
    status = path.stat()
    if change == "another file in its place":
        other = path.with_name("other")
        other.write_bytes(b"b" * 20)
        other.replace(path)
    else:
        path.write_bytes(b"b" * 20)
    if change != "content":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert hashing.sha256(path, records) == digest(path)
    assert len(reads) == 2


def test_a_file_that_was_just_written_is_not_recorded(large, monkeypatch):
    path, records, reads = large
    monkeypatch.setattr(hashing, "SETTLED", 1000.0)
    assert hashing.sha256(path, records) == hashing.sha256(path, records) == digest(path)
    assert len(reads) == 2


def test_a_small_file_needs_no_record(large, monkeypatch):
    path, records, _ = large
    monkeypatch.setattr(hashing, "WORTH_A_RECORD", 21)
    assert hashing.sha256(path, records) == digest(path)
    assert not records.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"fingerprint": 1, "sha256": "x"}'])
def test_a_damaged_record_is_made_again(large, damage):
    path, records, _ = large
    hashing.sha256(path, records)
    (record,) = records.iterdir()
    good = record.read_bytes()
    record.write_bytes(damage)
    assert hashing.sha256(path, records) == digest(path)
    assert record.read_bytes() == good


def test_a_place_that_cannot_be_written_costs_time_alone(large):
    path, records, _ = large
    records.write_bytes(b"a file where the folder should be")
    assert hashing.sha256(path, records) == digest(path)


def test_a_missing_file_is_the_users_to_mend(tmp_path):
    with pytest.raises(UserError, match="missing"):
        hashing.sha256(tmp_path / "absent")
