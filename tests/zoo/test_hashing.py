import hashlib
import os

import pytest

from datafree import artifacts
from datafree.errors import UserError
from datafree.zoo import hashing


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A file that counts as large and as old enough for a record, and the folder of the records."""
    monkeypatch.setattr(hashing, "MIN_CACHED_SIZE", 10)
    monkeypatch.setattr(hashing, "MIN_AGE", -1.0)  # the change time of a new file cannot be set back
    path = tmp_path / "w.pth"
    path.write_bytes(b"a" * 20)
    return path, tmp_path / "records"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hash_of_a_large_file_comes_from_its_record(large):
    path, records = large
    assert hashing.sha256(path, records) == hashing.sha256(path, records) == digest(path)
    (record,) = records.iterdir()
    artifacts.write_json(record, {**artifacts.read_json(record), "sha256": "recorded"})
    assert hashing.sha256(path, records) == "recorded"


@pytest.mark.parametrize("change", ["content", "content with its old time", "another file in its place"])
def test_a_changed_file_is_hashed_again(large, change):
    path, records = large
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


def test_a_recently_written_file_is_not_recorded(large, monkeypatch):
    path, records = large
    monkeypatch.setattr(hashing, "MIN_AGE", 1000.0)
    assert hashing.sha256(path, records) == digest(path)
    assert not records.exists()


def test_a_small_file_needs_no_record(large, monkeypatch):
    path, records = large
    monkeypatch.setattr(hashing, "MIN_CACHED_SIZE", 21)
    assert hashing.sha256(path, records) == digest(path)
    assert not records.exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"null", b'{"fingerprint": 1, "sha256": "x"}'])
def test_a_damaged_record_is_rewritten(large, damage):
    path, records = large
    hashing.sha256(path, records)
    (record,) = records.iterdir()
    good = record.read_bytes()
    record.write_bytes(damage)
    assert hashing.sha256(path, records) == digest(path)
    assert record.read_bytes() == good


def test_without_a_writable_folder_for_records_the_file_is_hashed(large):
    path, records = large
    records.write_bytes(b"a file where the folder should be")
    assert hashing.sha256(path, records) == digest(path)


def test_a_missing_file_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="missing"):
        hashing.sha256(tmp_path / "absent")
