"""Handmade checkpoint files with false sizes or with structures that exhaust their reader."""

import io
import json
import pickle
import struct
import zipfile

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from datafree.errors import UserError
from datafree.zoo import loading


def legacy(described: bytes, stored: bytes = b"") -> bytes:
    """A PyTorch file of the old format: magic number, version, sizes, the object, the list of storages, their values."""
    sizes = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [pickle.dumps(part, protocol=2) for part in (0x1950A86A20F9469CFC6C, 1001, sizes)]
    return b"".join(parts) + described + pickle.dumps(["0"] if stored else [], protocol=2) + stored


def archive_of(described: bytes, **more: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in {"data.pkl": described, "version": b"3", "byteorder": b"little", **more}.items():
            archive.writestr(f"w/{name}", content)
    return buffer.getvalue()


def number(value: int) -> bytes:
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def one_tensor(count: int, view: bytes = b"") -> bytes:
    """The pickle of {"a": a vector of ``count`` floats}."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpu" + number(count) + view + b"tQ"
    return (
        b"\x80\2}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\0" + number(count)
        + b"\x85K\1\x85\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def test_the_helper_functions_write_valid_files(tmp_path):
    (tmp_path / "old.pth").write_bytes(legacy(one_tensor(2, b"N"), struct.pack("<qff", 2, 0.5, 2)))
    (tmp_path / "new.pth").write_bytes(archive_of(one_tensor(2), **{"data/0": struct.pack("<ff", 0.5, 2)}))
    for name in ("old.pth", "new.pth"):
        assert loading.read_state_dict(tmp_path / name)["a"].tolist() == [0.5, 2]


@pytest.mark.parametrize("count", [-5, 3, 2**40, 2**45, 2**60, 2**62])
@pytest.mark.parametrize("kind", ["old", "new"])
def test_a_storage_of_another_size_than_stored_is_refused(tmp_path, kind, count):
    if kind == "old":
        content = legacy(one_tensor(count, b"N"), struct.pack("<qff", count, 0.5, 2))
    else:
        content = archive_of(one_tensor(count), **{"data/0": struct.pack("<ff", 0.5, 2)})
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="w.pth: not a plain state dict") as caught:
        loading.read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def key(tuple_operations: bytes) -> bytes:
    """The pickle of {tuple: 1}: reading it hashes the tuple."""
    return b"\x80\2})" + tuple_operations + b"K\1s."


@pytest.mark.parametrize("wrap", [bytes, legacy, archive_of])
@pytest.mark.parametrize("described", [key(b"q\1h\1\x86" * 64), key(b"\x85" * 500_000)], ids=["wide", "deep"])
def test_a_key_whose_hash_would_not_terminate_is_refused_before_loading(tmp_path, monkeypatch, wrap, described):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    (tmp_path / "w.pth").write_bytes(wrap(described))
    with pytest.raises(UserError, match="w.pth: not a plain state dict .a tuple of more than 10000 values"):
        loading.read_state_dict(tmp_path / "w.pth")


def test_archives_that_pytorch_does_not_write_are_refused_before_loading(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    good = pickle.dumps({}, protocol=2)
    (tmp_path / "twice.pth").write_bytes(archive_of(good, **{"DATA.pkl": key(b"")}))  # ambiguous: readers differ in which one they take
    with pytest.raises(UserError, match="twice.pth: not a plain state dict .an archive that PyTorch did not write"):
        loading.read_state_dict(tmp_path / "twice.pth")
    with zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w/data.pkl", good)
    with pytest.raises(UserError, match="packed.pth: not a plain state dict .an archive that PyTorch did not write"):
        loading.read_state_dict(tmp_path / "packed.pth")
    monkeypatch.setattr(loading, "MAX_PICKLE", 5)
    (tmp_path / "long.pth").write_bytes(archive_of(good))
    with pytest.raises(UserError, match=r"long.pth: w/data.pkl has \d+ bytes; at most 5 may describe"):
        loading.read_state_dict(tmp_path / "long.pth")
    monkeypatch.setattr(loading, "MAX_TENSORS", -98)
    with pytest.raises(UserError, match="long.pth: 3 files inside"):
        loading.read_state_dict(tmp_path / "long.pth")


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_as_safetensors_header_raise_only_user_errors(tmp_path_factory, header, honest):
    length = len(header) if honest else int.from_bytes(header[:8].ljust(8, b"\0"), "little")
    path = tmp_path_factory.mktemp("fuzz") / "w.safetensors"
    path.write_bytes(struct.pack("<Q", length) + header)
    with pytest.raises(UserError, match="w.safetensors: not a readable safetensors file"):
        loading.read_state_dict(path)


TENSOR = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "I64", "BOOL", "F8_E4M3", "X", 1]),
        "shape": st.lists(st.sampled_from([-1, 0, 1, 2, 2**31, 2**63, "a", None]), max_size=9),
        "data_offsets": st.lists(st.sampled_from([-1, 0, 1, 4, 8, 2**40, 2**63]), max_size=3),
    }
)


@given(st.dictionaries(st.text(max_size=2), TENSOR, max_size=3))
def test_any_claims_in_a_safetensors_header_raise_only_user_errors(tmp_path_factory, header):
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("fuzz") / "w.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    try:
        tensors = loading.read_state_dict(path)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert sum(tensor.numel() for tensor in tensors.values()) <= 8
