"""Malicious checkpoints and manifests: each is refused with one line, runs no code, does not hang and leaves no file.

Every case follows the steps of the pipeline: fetch, read the tensors, fill a network.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pickle
import pickletools
import signal
import struct
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from datafree.errors import UserError
from datafree.zoo import loading
from datafree.zoo.manifest import Entry, read_manifest
from datafree.zoo.sources import fetch

TIMEOUT = 10  # seconds after which a case counts as hanging


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 1)
        self.norm = torch.nn.BatchNorm2d(2)
        self.head = torch.nn.Linear(2, 3)


def state() -> OrderedDict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny().state_dict()


def zipped(value, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def legacy(value) -> bytes:
    return zipped(value, _use_new_zipfile_serialization=False)


def tensors(**changes) -> bytes:
    """A safetensors file of the network, with some tensors replaced or, for None, left out."""
    changed = {**state(), **{name.replace("__", "."): tensor for name, tensor in changes.items()}}
    return save({name: tensor.contiguous() for name, tensor in changed.items() if tensor is not None})


def load(folder: Path, file: str = "w.pth", sha256: str = "") -> None:
    """The steps of the pipeline for a manifest's ``file``."""
    entry = Entry(name="x", file=file, sha256=sha256, classes=["a", "b", "c"])
    path = fetch(entry, folder, folder / "cache")
    loading.fill(Tiny(), loading.read_state_dict(path), path)


class Hangs(BaseException):
    """A BaseException, so that the tested code does not catch it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    def interrupt(*_):
        raise Hangs(f"not finished after {TIMEOUT} s")

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.alarm(TIMEOUT)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def assert_refused(folder: Path, act: Callable[[], object], message: str) -> None:
    before = sorted(folder.rglob("*"))
    with time_limit(), pytest.raises(UserError, match=message) as caught:
        act()
    assert "\n" not in str(caught.value)
    assert sorted(folder.rglob("*")) == before  # no partial file, and no file of a payload


def test_the_unmodified_file_of_the_cases_is_valid(tmp_path):
    for name, content in (("w.pth", zipped(state())), ("l.pth", legacy(state())), ("w.safetensors", tensors())):
        (tmp_path / name).write_bytes(content)
        load(tmp_path, name)


# ---- code in a pickle -------------------------------------------------------------------------------------------------------------------


class Call:
    """Calls ``function(*arguments)`` when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def in_metadata(call: Call) -> OrderedDict:
    """A state dict with the call in its version numbers, an attribute that PyTorch saves with it."""
    value = state()
    value._metadata["norm"] = {"version": call}
    return value


def in_attribute(call: Call) -> dict:
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.note = call
    return {**state(), "head.bias": parameter}


def in_hook(call: Call) -> dict:
    """A tensor with the call among its hooks, which PyTorch reads but does not save."""
    rebuilt = Call(torch._utils._rebuild_tensor_v2, torch.ones(3)._typed_storage(), 0, (3,), (1,), True, OrderedDict({0: call}))
    return {**state(), "head.bias": rebuilt}


def legacy_with(content: bytes, index: int) -> bytes:
    """A file of the old format (five pickles, then the values) with one of the pickles replaced."""
    file = io.BytesIO(legacy(state()))
    parts = []
    for _ in range(5):
        start = file.tell()
        for _ in pickletools.genops(file):
            pass
        parts.append(file.getvalue()[start : file.tell()])
    parts[index] = content
    return b"".join(parts) + file.read()


PLACES: dict[str, Callable[[Call], bytes]] = {
    "alone": zipped,
    "alone, old format": legacy,
    "bare pickle": pickle.dumps,
    "bare pickle, protocol 0": lambda call: pickle.dumps(call, protocol=0),
    "beside tensors": lambda call: zipped({**state(), "extra": call}),
    "beside tensors, old format": lambda call: legacy({**state(), "extra": call}),
    "as a name": lambda call: zipped({call: torch.ones(1)}),
    "in a wrapper": lambda call: zipped({"state_dict": state(), "optimizer": {"hooks": [call]}}),
    "in a state dict's metadata": lambda call: zipped(in_metadata(call)),
    "in a tensor's attribute": lambda call: zipped(in_attribute(call)),
    "in a tensor's hook": lambda call: zipped(in_hook(call)),
    "in the old format's sizes": lambda call: legacy_with(pickle.dumps(call, protocol=2), 2),
    "in the old format's list of storages": lambda call: legacy_with(pickle.dumps(call, protocol=2), 4),
}
PAYLOADS: dict[str, Callable[[Path], Call]] = {
    "os.system": lambda mark: Call(os.system, f"touch {mark}"),
    "exec": lambda mark: Call(exec, f"open({str(mark)!r}, 'w').close()"),
    "Path.touch": lambda mark: Call(Path.touch, mark),
}


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_a_payload_does_not_run(tmp_path, place, payload):
    (tmp_path / "w.pth").write_bytes(PLACES[place](PAYLOADS[payload](tmp_path / "it-ran")))
    assert_refused(tmp_path, lambda: load(tmp_path), "w.pth: ")


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("place", PLACES)
def test_the_unrestricted_loader_runs_the_payload(tmp_path, place, payload):
    (tmp_path / "w.pth").write_bytes(PLACES[place](PAYLOADS[payload](tmp_path / "it-ran")))
    with contextlib.suppress(Exception), (tmp_path / "w.pth").open("rb") as file:
        pickle.load(file) if place.startswith("bare") else torch.load(file, weights_only=False)
    assert (tmp_path / "it-ran").exists()


def frozen(*operations: bytes) -> bytes:
    return b"\x80\2" + b"".join(operations) + b"."


GADGETS = {
    "a function that the reader allows, on nonsense": frozen(b"ctorch._utils\n_rebuild_tensor_v2\n(tR"),
    "a global by strings": b"\x80\4\x8c\5posix\x8c\6system\x93\x8c\7echo hi\x85R.",
    "a registered extension": frozen(b"\x82\1"),
    "getattr of an allowed class": frozen(b"cbuiltins\ngetattr\n(ctorch\nFloatStorage\nX\x09\0\0\0from_file\x74R"),
    "a file mapped into memory": frozen(b"ctorch\nFloatStorage.from_file\n(X\x0b\0\0\0/etc/passwdtR"),
    "torch.load itself": frozen(b"ctorch.serialization\nload\n(X\x05\0\0\0x.pthtR"),
    "a hub download": frozen(b"ctorch.hub\nload_state_dict_from_url\n(X\x12\0\0\0http://127.0.0.1:9tR"),
    "numpy": frozen(b"cnumpy\nfromfile\n(X\x0b\0\0\0/etc/passwdtR"),
    "an old-style instance": b"(iposix\nsystem\n.",
    "an object": b"(cposix\nsystem\nX\4\0\0\0trueo.",
    "an instance without arguments": frozen(b"csubprocess\nPopen\n)\x81"),
    "a state that is set": frozen(b"ccollections\nOrderedDict\n)R}X\x0b\0\0\0__setstate__cposix\nsystem\nsb"),
}


@pytest.mark.parametrize("wrap", ["bare", "zipped"])
@pytest.mark.parametrize("gadget", GADGETS)
def test_a_gadget_does_not_run(tmp_path, gadget, wrap):
    content = GADGETS[gadget]
    if wrap == "zipped":
        content = archive({"w/data.pkl": content, "w/version": b"3\n"})
    (tmp_path / "w.pth").write_bytes(content)
    assert_refused(tmp_path, lambda: load(tmp_path), "w.pth: not a plain state dict|w.pth: expected a mapping")


# ---- damage -----------------------------------------------------------------------------------------------------------------------------

INTACT = {"w.pth": zipped(state()), "l.pth": legacy(state()), "w.safetensors": tensors()}


@pytest.mark.parametrize("name", INTACT)
@pytest.mark.parametrize("share", [0, 0.003, 0.02, 0.3, 0.7, 0.98, 1])
def test_a_truncated_file_is_refused(tmp_path, name, share):
    content = INTACT[name]
    (tmp_path / name).write_bytes(content[: min(int(share * len(content)), len(content) - 1)])
    assert_refused(tmp_path, lambda: load(tmp_path, name), f"{name}: not a ")


@pytest.mark.parametrize("name", INTACT)
@pytest.mark.parametrize("position", [0, 3, 9, 40, 200, -600, -40, -5, -1])
def test_a_flipped_bit_is_refused_when_the_manifest_has_a_hash(tmp_path, name, position):
    content = bytearray(INTACT[name])
    digest = hashlib.sha256(content).hexdigest()
    content[position] ^= 1 << 4
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path, lambda: load(tmp_path, name, digest), f"{name}: SHA-256 is .* the manifest expects {digest}")


@pytest.mark.parametrize(
    ("name", "position"),
    [("w.pth", 0), ("w.pth", -22), ("l.pth", 0), ("l.pth", 1), ("w.safetensors", 0), ("w.safetensors", 7), ("w.safetensors", 8)],
)
def test_a_flipped_bit_in_the_file_format_is_refused_without_a_hash(tmp_path, name, position):
    content = bytearray(INTACT[name])
    content[position] ^= 1 << 4
    (tmp_path / name).write_bytes(content)
    assert_refused(tmp_path, lambda: load(tmp_path, name), f"{name}: not a ")


@pytest.mark.parametrize("sha256", ["0" * 64, "0" * 8])
def test_a_file_with_another_hash_is_refused(tmp_path, sha256):
    (tmp_path / "w.pth").write_bytes(INTACT["w.pth"])
    assert_refused(tmp_path, lambda: load(tmp_path, sha256=sha256), f"w.pth: SHA-256 is .* the manifest expects {sha256}; fetch")


# ---- archives ---------------------------------------------------------------------------------------------------------------------------


def archive(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def claiming(size: int) -> bytes:
    """An archive whose central directory declares ``size`` bytes for its first member."""
    content = bytearray(archive({"w/data.pkl": b"\x80\2}.", "w/version": b"3"}))
    position = content.index(b"PK\x01\x02")
    content[position + 24 : position + 28] = struct.pack("<I", size)
    return bytes(content)


def renamed(old: bytes, new: bytes) -> bytes:
    return INTACT["w.pth"].replace(old, new)


ROOT = INTACT["w.pth"][30 : 30 + INTACT["w.pth"][30:].index(b"/")].decode()  # the folder in the archive, named by PyTorch
ARCHIVES = {
    "zeros compressed a thousandfold": lambda: archive({"w/data.pkl": bytes(3 * 10**6)}, zipfile.ZIP_DEFLATED),
    "another compression": lambda: archive({"w/data.pkl": bytes(3 * 10**6)}, zipfile.ZIP_BZIP2),
    "many large members": lambda: archive({f"w/data/{i}": bytes(10**5) for i in range(25)}, zipfile.ZIP_DEFLATED),
    "a member that claims to be large": lambda: claiming(2**31),
    "a member that claims to be larger than it is": lambda: claiming(400),
    "a member that claims to be smaller than it is": lambda: claiming(1),
    "an archive in an archive": lambda: archive({"w/data.pkl": archive({"w/data.pkl": b"\x80\2}."})}),
    "names with parent folders": lambda: archive({"../it-ran/data.pkl": b"\x80\2}.", "../it-ran/version": b"3"}),
    "absolute names": lambda: archive({"/tmp/it-ran/data.pkl": b"\x80\2}.", "/tmp/it-ran/version": b"3"}),
    "names with a drive": lambda: archive({"C:\\data.pkl": b"\x80\2}.", "C:\\version": b"3"}),
    "one name in two cases": lambda: archive({"w/data.pkl": b"\x80\2}.", "w/DATA.PKL": GADGETS["a global by strings"]}),
    "no pickle": lambda: archive({"w/data/0": bytes(8)}),
    "empty archive": lambda: archive({}),
    "code beside the tensors": lambda: archive({"w/data.pkl": b"\x80\2}.", "w/constants.pkl": b"", "w/code/__torch__.py": b"import os"}),
    "values missing": lambda: renamed(f"{ROOT}/data/0".encode(), f"{ROOT}/data/X".encode()),
    "unknown byte order": lambda: renamed(b"little", b"middle"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_an_archive_that_pytorch_did_not_write_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(loading, "MAX_BYTES", 2 * 10**6)  # a smaller limit, so that the archives of this test can be small
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / "w.pth").write_bytes(ARCHIVES[kind]())
    assert_refused(tmp_path, lambda: load(tmp_path / "zoo"), "w.pth: ")
    assert not Path("/tmp/it-ran").exists()


# ---- safetensors headers ----------------------------------------------------------------------------------------------------------------


def file_of(header: object, body: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def one(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict:
    return {"head.bias": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


HEADERS = {
    "negative shape": file_of(one(shape=[-2])),
    "two negative sides with the right product": file_of(one(shape=[-2, -1])),
    "huge shape": file_of(one(shape=[2**62])),
    "a product that overflows": file_of(one(shape=[2**32, 2**32, 2])),
    "shape of text": file_of(one(shape=["2"])),
    "fractional shape": file_of(one(shape=[2.5])),
    "values beyond the end": file_of(one(shape=[4], offsets=[0, 16])),
    "values before the start": file_of(one(offsets=[-8, 0])),
    "offsets in reverse": file_of(one(offsets=[8, 0])),
    "offsets that overflow": file_of(one(offsets=[2**64 - 8, 0])),
    "values that overlap": file_of({**one(), "x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}),
    "values with a gap": file_of({**one(), "x": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, bytes(16)),
    "surplus values": file_of(one(), bytes(800)),
    "a header longer than the file": file_of(one(), length=10**6),
    "a header of 2^63 bytes": file_of(one(), length=2**63),
    "a header of 2^64 - 1 bytes": file_of(one(), length=2**64 - 1),
    "no header": file_of(b""),
    "a list": file_of([one()]),
    "a number": file_of(b"8"),
    "not JSON": file_of(b"{head.bias: 8}"),
    "JSON followed by text": file_of(json.dumps(one()).encode() + b"; import os"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "deeply nested": file_of(b"[" * 10**5),
    "a name twice": file_of(b"{" + b",".join([json.dumps(one())[1:-1].encode()] * 2) + b"}"),
    "an unknown type": file_of(one("F12")),
    "a type of number": file_of(one(7)),
    "no tensor": file_of({}, b""),
    "metadata that is not text": file_of({**one(), "__metadata__": {"a": {"b": 1}}}),
    "a pickle with this suffix": zipped(state()),
    "text with this suffix": b"import os; os.system('true')\n" * 20,
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_false_header_is_refused(tmp_path, kind):
    (tmp_path / "w.safetensors").write_bytes(HEADERS[kind])
    assert_refused(tmp_path, lambda: load(tmp_path, "w.safetensors"), "w.safetensors: ")


# ---- tensors ----------------------------------------------------------------------------------------------------------------------------

TENSORS = {
    "NaN": {"head__bias": torch.tensor([0, torch.nan, 0])},
    "infinity": {"head__bias": torch.tensor([0, torch.inf, 0])},
    "NaN in half precision": {"head__bias": torch.tensor([0, torch.nan, 0], dtype=torch.bfloat16)},
    "numbers too large for the network": {"head__bias": torch.tensor([0, 1e300, 0], dtype=torch.float64)},
    "NaN in running statistics": {"norm__running_var": torch.tensor([1, torch.nan])},
    "a negative variance": {"norm__running_var": torch.tensor([1.0, -1.0])},
    "a tensor missing": {"head__bias": None},
    "all statistics missing": {"norm__running_mean": None, "norm__running_var": None},
    "an extra tensor": {"head__scale": torch.ones(1)},
    "two classes instead of three": {"head__weight": torch.ones(2, 2), "head__bias": torch.ones(2)},
    "one class more": {"head__weight": torch.ones(4, 2), "head__bias": torch.ones(4)},
    "the transpose": {"head__weight": torch.ones(2, 3)},
    "a scalar": {"head__bias": torch.tensor(1.0)},
    "an empty tensor": {"head__bias": torch.ones(0)},
    "integers": {"head__bias": torch.tensor([1, 2, 3])},
    "booleans": {"head__bias": torch.tensor([True, False, True])},
    "bytes": {"conv__weight": torch.ones(2, 3, 1, 1, dtype=torch.uint8)},
    "complex numbers": {"head__bias": torch.ones(3, dtype=torch.complex64)},
}


@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_do_not_fit_are_refused(tmp_path, kind):
    (tmp_path / "w.safetensors").write_bytes(tensors(**TENSORS[kind]))
    assert_refused(tmp_path, lambda: load(tmp_path, "w.safetensors"), "w.safetensors: ")


# ---- paths that are no regular file -----------------------------------------------------------------------------------------------------


def fifo(folder: Path) -> str:
    os.mkfifo(folder / "w.pth")
    return "w.pth"


def link(folder: Path, to: str) -> str:
    (folder / "w.pth").symlink_to(to)
    return "w.pth"


def made(folder: Path, name: str, content: bytes = b"") -> str:
    (folder / name).write_bytes(content)
    return name


PLACES_OF_FILES: dict[str, Callable[[Path], str]] = {
    "an empty file": lambda folder: made(folder, "w.pth"),
    "an empty safetensors file": lambda folder: made(folder, "w.safetensors"),
    "a missing file": lambda _: "absent.pth",
    "the folder itself": lambda _: ".",
    "the parent folder": lambda _: "..",
    "a FIFO": fifo,
    "an endless device": lambda _: "/dev/zero",
    "a blocking device": lambda _: "/dev/tty",
    "a system file": lambda _: "/proc/self/mem",
    "a link to a device": lambda folder: link(folder, "/dev/zero"),
    "a link to itself": lambda folder: link(folder, "w.pth"),
    "a link to nothing": lambda folder: link(folder, "absent"),
    "a name with a zero byte": lambda _: "w\0.pth",
    "a name that is too long": lambda _: "w" * 300,
    "a path that is too long": lambda _: "w/" * 3000,
    "a name with a line break": lambda folder: made(folder, "w\n.pth", b"x"),
}


@pytest.mark.parametrize("kind", PLACES_OF_FILES)
def test_a_path_that_is_no_regular_file_is_refused(tmp_path, kind):
    file = PLACES_OF_FILES[kind](tmp_path)
    assert_refused(tmp_path, lambda: load(tmp_path, file), ": ")


def test_a_link_out_of_the_manifests_folder_is_refused(tmp_path):
    (tmp_path / "secret.pth").write_bytes(INTACT["w.pth"])
    (tmp_path / "zoo").mkdir()
    link(tmp_path / "zoo", "../secret.pth")
    assert_refused(tmp_path, lambda: load(tmp_path / "zoo"), "w.pth: a symbolic link that leads out of ")


@contextlib.contextmanager
def as_unprivileged_user() -> Iterator[None]:
    """Drop root for the block, because root may read every file."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("what", ["file", "folder"])
def test_a_file_without_read_permission_is_refused(what):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "zoo").mkdir()
        (folder / "zoo" / "w.pth").write_bytes(INTACT["w.pth"])
        (folder / "zoo" / "w.pth" if what == "file" else folder / "zoo").chmod(0)
        try:
            with as_unprivileged_user():
                for act in (lambda: load(folder, "zoo/w.pth"), lambda: loading.read_state_dict(folder / "zoo" / "w.pth")):
                    with pytest.raises(UserError, match="w.pth: ") as caught:
                        act()
                    assert "\n" not in str(caught.value)
        finally:
            (folder / "zoo").chmod(0o700)


# ---- manifests --------------------------------------------------------------------------------------------------------------------------

GOOD = "name: a, file: a.pth, classes: [x, y]"
MANIFESTS = {
    "a Python call": "!!python/object/apply:os.system ['touch it-ran']",
    "a Python object": f"teachers: [{{{GOOD}, licence: !!python/name:os.system }}]",
    "a Python module": f"teachers: [{{{GOOD}, licence: !!python/module:os }}]",
    "aliases of aliases": "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)) + "teachers: [*a39]",
    "aliases of aliases in an entry": "teachers:\n- {name: a, file: x, classes: &a0 [x, y]}\n"
    + "".join(f"- &b{i} [*b{i - 1}, *b{i - 1}]\n" if i else "- &b0 [x, x]\n" for i in range(30)),
    "an alias of itself": "teachers: &a [*a]",
    "an entry of itself": "teachers: [&a {name: a, file: x, classes: *a}]",
    "deep brackets": "[" * 5000,
    "a number of a thousand digits": f"teachers: [{{{GOOD}, input: [{'9' * 1000}, 8, 8]}}]",
    "an infinite number": f"teachers: [{{{GOOD}, architecture: {{width: 1e999}}}}]",
    "a name with parent folders": "teachers: [{name: ../../a, file: x, classes: [x, y]}]",
    "an absolute name": "teachers: [{name: /a, file: x, classes: [x, y]}]",
    "a name of dots": "teachers: [{name: .., file: x, classes: [x, y]}]",
    "a name that is an option": "teachers: [{name: --force, file: x, classes: [x, y]}]",
    "a file URL": f"teachers: [{{name: a, url: 'file:///etc/passwd', sha256: {'0' * 64}, classes: [x, y]}}]",
    "an address with a password": f"teachers: [{{name: a, url: 'https://me:secret@x/y', sha256: {'0' * 64}, classes: [x, y]}}]",
    "an address without a hash": "teachers: [{name: a, url: 'https://x/y', classes: [x, y]}]",
    "a hub path with parent folders": f"teachers: [{{name: a, hub: 'a/b/../../c', sha256: {'0' * 64}, classes: [x, y]}}]",
    "no UTF-8": b"teachers: [{name: \xff}]",
    "a zero byte": b"teachers: \0",
    "two documents": f"teachers: [{{{GOOD}}}]\n---\nteachers: [{{{GOOD}}}]",
    "a mean of NaN": f"teachers: [{{{GOOD}, mean: [.nan, 0, 0]}}]",
    "a std of zero": f"teachers: [{{{GOOD}, std: [0, 1, 1]}}]",
    "an interpolation that reads the environment": f"teachers: [{{{GOOD}, licence: '${{oc.env:HOME}}'}}]",
    "an interpolation that decodes": f"teachers: [{{{GOOD}, licence: '${{oc.decode:\"[1, 2]\"}}'}}]",
}


@pytest.mark.parametrize("kind", MANIFESTS)
def test_a_hostile_manifest_is_refused(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    text = MANIFESTS[kind]
    (tmp_path / "z.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert_refused(tmp_path, lambda: read_manifest(tmp_path / "z.yaml"), "z.yaml")


@pytest.mark.parametrize("kind", ["folder", "FIFO", "device", "name too long"])
def test_a_manifest_that_is_no_regular_file_is_refused(tmp_path, kind):
    path = {"folder": tmp_path, "FIFO": tmp_path / "z.yaml", "device": Path("/dev/zero"), "name too long": tmp_path / ("z" * 300)}[kind]
    if kind == "FIFO":
        os.mkfifo(path)
    assert_refused(tmp_path, lambda: read_manifest(path), ": ")
