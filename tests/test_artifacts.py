import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from datafree import artifacts
from datafree.errors import UserError

NOISE = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)).numpy()
WRITERS = {
    "tensors": lambda path: artifacts.write_tensors(path, {"x": torch.arange(4096.0)}, name="n"),
    "json": lambda path: artifacts.write_json(path, list(range(4096))),
    "history": lambda path: artifacts.write_history(path, [{"step": step, "loss": 1 / step} for step in range(1, 1024)]),
    "image": lambda path: artifacts.write_image(path, Image.fromarray(NOISE)),
    "text": lambda path: artifacts.write_text(path, "word " * 4096),
}


@pytest.fixture(params=WRITERS)
def write(request):
    return WRITERS[request.param]


def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), artifacts.atomic(path) as part:
        part.write_text("incomplete")
        raise ZeroDivisionError
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_the_final_name_appears_only_with_the_complete_content(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    with artifacts.atomic(path) as part:
        part.write_text("complete")
        assert not path.exists()
        assert part.parent == path.parent  # otherwise the rename would not be atomic
    assert path.read_text() == "complete"
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_fsync_leaves_the_old_file(tmp_path, write, monkeypatch, no_space):
    path = tmp_path / "file"
    path.write_text("old")

    def refuse(_):
        raise no_space

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_full_disk_is_an_operating_system_error_and_leaves_nothing(tmp_path, write, full_disk):
    path = tmp_path / "file"
    with full_disk(), pytest.raises(OSError, match="too large"):
        write(path)
    assert list(tmp_path.iterdir()) == []
    write(path)
    assert path.stat().st_size > 2048


def test_two_processes_write_the_same_bytes(tmp_path, monkeypatch):
    script = """
import sys, torch
from datafree import artifacts
tensors = {name: torch.arange(5) for name in {"weights", "bias", "a", "zeta", "images"}}
artifacts.write_tensors(sys.argv[1] + ".safetensors", tensors, **{name: [name, 1.5] for name in {"teacher", "seed", "method", "b", "y"}})
artifacts.write_json(sys.argv[1] + ".json", {name: 1 for name in {"p", "q", "r", "s"}})
"""
    subprocess.run([sys.executable, "-c", script, tmp_path / "other"], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", ["this process", str(tmp_path / "this")])  # with another order of the sets
        exec(script, {})
    for suffix in ("safetensors", "json"):
        assert (tmp_path / f"other.{suffix}").read_bytes() == (tmp_path / f"this.{suffix}").read_bytes()


def test_tensors_of_every_kind_are_read_back(tmp_path):
    matrix = torch.arange(12.0).view(3, 4)
    tensors = {
        "transposed": matrix.T,
        "matrix": matrix,
        "slice": matrix[:, 1],
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3, dtype=torch.uint8),
        "flags": torch.tensor([True, False]),
        "half": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "channels_last": torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "learned": torch.nn.Parameter(torch.ones(2)),
    }
    artifacts.write_tensors(tmp_path / "t", tensors)
    found = artifacts.read_tensors(tmp_path / "t")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype, name
        assert torch.equal(found[name], tensor), name
        assert not found[name].requires_grad
    assert artifacts.read_tensors(tmp_path / "t", "flags").keys() == {"flags"}
    assert artifacts.read_metadata(tmp_path / "t") == {}


text = st.text(st.characters(exclude_categories=["Cs"]))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=8,
)


@given(metadata=st.dictionaries(st.from_regex("[a-zA-Z_]{1,8}", fullmatch=True), json_values, max_size=5))
def test_metadata_is_read_back_and_tensors_stay_readable_with_a_sorted_header(tmp_path_factory, metadata):
    path = tmp_path_factory.mktemp("metadata") / "t"
    metadata = {name: value for name, value in metadata.items() if name not in ("path", "tensors")}
    tensors = {"ü": torch.arange(3), "a b": torch.ones(2, 2), 'quo"te\n': torch.zeros(1)}
    artifacts.write_tensors(path, tensors, **metadata)
    assert artifacts.read_metadata(path) == metadata
    loaded = load_file(path)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    names = [name for name in header if name != "__metadata__"]
    assert names == sorted(names)
    assert list(header.get("__metadata__", {})) == sorted(metadata)


@given(value=json_values)
def test_json_is_read_back(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("json") / "j"
    artifacts.write_json(path, value)
    assert artifacts.read_json(path) == value
    assert path.read_bytes().endswith(b"\n")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_nan_and_infinity(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        artifacts.write_json(tmp_path / "j", {"loss": [value]})
    assert list(tmp_path.iterdir()) == []


def test_a_history_keeps_its_columns_and_omits_empty_cells(tmp_path):
    rows = [{"step": 1, "loss": 0.123456789, "accuracy": 0.5}, {"step": 2, "loss": 0.1}]
    artifacts.write_history(tmp_path / "h", rows)
    assert (tmp_path / "h").read_text() == "step,loss,accuracy\n1,0.123457,0.5\n2,0.1,\n"
    assert artifacts.read_history(tmp_path / "h") == [{"step": 1, "loss": 0.123457, "accuracy": 0.5}, {"step": 2, "loss": 0.1}]
    artifacts.write_history(tmp_path / "none", [])
    assert artifacts.read_history(tmp_path / "none") == []


def test_images_and_texts_are_read_back(tmp_path):
    artifacts.write_image(tmp_path / "p.png", Image.fromarray(NOISE))
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.format == "PNG"
        assert (np.asarray(picture) == NOISE).all()
    artifacts.write_text(tmp_path / "t", "naïve ≤ 5\n")
    assert (tmp_path / "t").read_bytes() == "naïve ≤ 5\n".encode()


READERS = {
    "read_tensors": artifacts.read_tensors,
    "read_metadata": artifacts.read_metadata,
    "read_json": artifacts.read_json,
    "read_history": artifacts.read_history,
    "sha256": artifacts.sha256,
}


def one_line(error) -> bool:
    return "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("reader", READERS)
def test_a_missing_file_is_a_one_line_error_with_its_name(tmp_path, reader):
    with pytest.raises(UserError, match=r"absent: the file is missing") as error:
        READERS[reader](tmp_path / "absent")
    assert one_line(error)
    with pytest.raises(UserError, match="missing"):
        READERS[reader](tmp_path)  # a folder is not a file


DAMAGED = {
    "empty": b"",
    "noise": b"\xff\xfe\x00\x9f" * 40,
    "text": b"step,loss\n1,high\n",
    "columns": b"step\n1,2,3\n",
    "deep": b"[" * 9999,
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("reader", ["read_tensors", "read_metadata", "read_json", "read_history"])
def test_a_damaged_file_is_a_one_line_error_with_its_name(tmp_path, reader, damage):
    path = tmp_path / "damaged"
    path.write_bytes(DAMAGED[damage])
    if reader == "read_history" and damage in ("empty", "deep"):  # a curve without rows
        assert READERS[reader](path) == []
        return
    with pytest.raises(UserError, match="damaged: not .*delete it and rerun") as error:
        READERS[reader](path)
    assert one_line(error)


@given(st.data())
def test_any_damage_to_a_tensor_file_raises_only_user_errors(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "t"
    artifacts.write_tensors(path, {"x": torch.arange(6.0), "y": torch.ones(2)}, classes=["a"])
    content = bytearray(path.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))]
    for position, value in data.draw(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4)):
        if position < len(content):
            content[position] = value
    path.write_bytes(content)
    for reader in (artifacts.read_tensors, artifacts.read_metadata):
        try:
            reader(path)
        except UserError as error:
            assert "\n" not in str(error)


def test_a_truncated_tensor_file_is_refused(tmp_path):
    artifacts.write_tensors(tmp_path / "t", {"x": torch.arange(1000.0)})
    content = (tmp_path / "t").read_bytes()
    (tmp_path / "t").write_bytes(content[:-1])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        artifacts.read_tensors(tmp_path / "t")


def test_a_missing_tensor_is_named_with_the_existing_ones(tmp_path):
    artifacts.write_tensors(tmp_path / "t", {"x": torch.ones(1), "y": torch.ones(1)})
    with pytest.raises(UserError, match="t: expected a tensor `images`, found x, y"):
        artifacts.read_tensors(tmp_path / "t", "x", "images")


def test_a_file_beyond_the_limit_is_not_opened(tmp_path, monkeypatch):
    artifacts.write_tensors(tmp_path / "t", {"x": torch.ones(100)})
    monkeypatch.setattr(artifacts, "MAX_TENSOR_FILE", 100)
    for reader in (artifacts.read_tensors, artifacts.read_metadata):
        with pytest.raises(UserError, match="bytes; expected at most 100"):
            reader(tmp_path / "t")


def test_a_hash_is_the_sha256_of_the_bytes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert artifacts.sha256(tmp_path / "f") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
