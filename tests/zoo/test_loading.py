import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from datafree.errors import UserError
from datafree.zoo import loading

STATE = {"conv.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)), "norm.count": torch.tensor(5)}


def assert_equal(found, expected=STATE):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor)


# ---- supported files --------------------------------------------------------------------------------------------------------------------


def test_safetensors_are_read(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors", metadata={"format": "pt"})
    assert_equal(loading.read_state_dict(tmp_path / "w.safetensors"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".ckpt", ""])
def test_pytorch_files_of_both_formats_are_read(tmp_path, suffix, zipped):
    torch.save(STATE, tmp_path / f"w{suffix}", _use_new_zipfile_serialization=zipped)
    assert_equal(loading.read_state_dict(tmp_path / f"w{suffix}"))


def test_the_suffix_of_a_pytorch_file_does_not_matter(tmp_path):
    torch.save(STATE, tmp_path / "model.bin")
    assert_equal(loading.read_state_dict(tmp_path / "model.bin"))
    with pytest.raises(UserError, match="absent.pth: the checkpoint is missing"):
        loading.read_state_dict(tmp_path / "absent.pth")


@pytest.mark.parametrize("wrapper", loading.WRAPPERS)
def test_the_usual_wrappers_are_removed(tmp_path, wrapper):
    torch.save({wrapper: STATE, "optimizer": {"lr": 0.1}, "epoch": 3}, tmp_path / "w.pth")
    assert_equal(loading.read_state_dict(tmp_path / "w.pth"))


def test_nested_wrappers_are_removed(tmp_path):
    torch.save({"model": {"state_dict": STATE}}, tmp_path / "w.pth")
    assert_equal(loading.read_state_dict(tmp_path / "w.pth"))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_the_prefixes_of_data_parallel_and_compile_are_removed(tmp_path, prefix):
    torch.save({f"{prefix}{name}": tensor for name, tensor in STATE.items()}, tmp_path / "w.pth")
    assert_equal(loading.read_state_dict(tmp_path / "w.pth"))


def test_a_prefix_of_only_some_names_is_kept(tmp_path):
    state = {"module.a": torch.ones(1), "a": torch.zeros(1)}
    torch.save(state, tmp_path / "w.pth")
    assert_equal(loading.read_state_dict(tmp_path / "w.pth"), state)


def test_an_error_in_renaming_names_the_file(tmp_path):
    assert_equal(loading.rename(STATE, {"conv": "a.b", "norm": None}, tmp_path), {"a.b.weight": STATE["conv.weight"]})
    with pytest.raises(UserError, match="w.pth: keys: `conv.weight` and `norm.weight` would both be renamed to `x.weight`"):
        loading.rename({**STATE, "norm.weight": torch.ones(1)}, {"conv": "x", "norm": "x"}, tmp_path / "w.pth")


def test_fill_restores_the_state_of_a_model(tmp_path):
    def make():
        return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))

    first, second = make(), make()
    first(torch.randn(2, 3, 8, 8))
    torch.save(first.state_dict(), tmp_path / "w.pth")
    loading.fill(second, loading.read_state_dict(tmp_path / "w.pth"), tmp_path / "w.pth")
    assert_equal(second.state_dict(), first.state_dict())


# ---- code in files ----------------------------------------------------------------------------------------------------------------------


class Payload:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


class SystemPayload(Payload):
    def __reduce__(self):
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("payload", [Payload, SystemPayload])
@pytest.mark.parametrize("save", ["zip", "legacy", "plain pickle", "beside tensors"])
def test_code_in_a_checkpoint_is_refused_and_does_not_run(tmp_path, payload, save):
    marker, path = tmp_path / "it-ran", tmp_path / "w.pth"
    if save == "plain pickle":
        path.write_bytes(pickle.dumps(payload(marker)))
    else:
        value = {**STATE, "extra": payload(marker)} if save == "beside tensors" else payload(marker)
        torch.save(value, path, _use_new_zipfile_serialization=save != "legacy")
    with pytest.raises(UserError, match="w.pth: not a plain state dict .*safetensors"):
        loading.read_state_dict(path)
    assert not marker.exists()
    with path.open("rb") as file:  # the unrestricted loader runs the payload
        pickle.load(file) if save == "plain pickle" else torch.load(file, weights_only=False)
    assert marker.exists()


class Whole(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 2)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickled_model_is_refused_with_a_conversion_command(tmp_path, zipped):
    torch.save(Whole(), tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(
        UserError, match=r"a pickle that runs code \([\w.]*Whole\); it is not loaded. .* convert it elsewhere with `torch.save"
    ):
        loading.read_state_dict(tmp_path / "w.pth")


def test_torchscript_is_refused_with_a_conversion_command(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"w/{name}", b"x")
    with pytest.raises(UserError, match="w.pt: a TorchScript archive, which holds code; it is not loaded. .*torch.jit.load"):
        loading.read_state_dict(tmp_path / "w.pt")


# ---- refused files ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [[1, 2], {}, {"a": 1}, torch.ones(2), {"state_dict": {}}, {"state_dict": {"a": "b"}}, "text"])
def test_a_value_that_is_no_state_dict_is_refused(tmp_path, value):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(UserError, match="w.pth: expected a mapping from names to tensors; save `model.state_dict"):
        loading.read_state_dict(tmp_path / "w.pth")


def content_of(kind: str) -> bytes:
    buffer = io.BytesIO()
    torch.save(STATE, buffer, _use_new_zipfile_serialization=kind == "zip")
    return buffer.getvalue()


CONTENTS = {kind: content_of(kind) for kind in ("zip", "legacy")}


@pytest.mark.parametrize("kind", CONTENTS)
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path, kind, share):
    content = CONTENTS[kind]
    (tmp_path / "w.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="w.pth: not a plain state dict") as caught:
        loading.read_state_dict(tmp_path / "w.pth")
    assert "\n" not in str(caught.value)


def test_a_truncated_safetensors_file_is_refused(tmp_path):
    save_file(STATE, tmp_path / "w.safetensors")
    content = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(content[:-1])
    with pytest.raises(UserError, match="w.safetensors: not a readable safetensors file"):
        loading.read_state_dict(tmp_path / "w.safetensors")


@given(
    st.sampled_from(sorted(CONTENTS)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
    st.floats(0, 1),
)
def test_any_damage_to_a_file_raises_only_user_errors(tmp_path_factory, kind, changes, share):
    content = bytearray(CONTENTS[kind])
    for position, value in changes:
        content[int(position * len(content))] = value
    if share > 0.5:  # in half of the cases the file is cut as well
        content = content[: int((2 * share - 1) * len(content))]
    path = tmp_path_factory.mktemp("fuzz") / "w.pth"
    path.write_bytes(content)
    try:
        loading.read_state_dict(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_a_damaged_central_directory_is_refused(tmp_path):
    content = bytearray(CONTENTS["zip"])
    position = content.rindex(b"PK\x01\x02")
    content[position : position + 4] = b"XXXX"
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(UserError, match="w.pth: not a plain state dict"):
        loading.read_state_dict(tmp_path / "w.pth")


def test_an_archive_with_too_much_content_is_refused_before_loading(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "w.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 100_000)
    assert (tmp_path / "w.pth").stat().st_size < 1000
    monkeypatch.setattr(loading, "MAX_BYTES", 50_000)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("opened"))
    assert loading.verify(tmp_path / "w.pth", "")
    with pytest.raises(UserError, match="w.pth: unpacks to more than 50000 bytes; refused"):
        loading.read_state_dict(tmp_path / "w.pth")


def test_too_many_tensors_are_refused(tmp_path, monkeypatch):
    torch.save(STATE, tmp_path / "w.pth")
    monkeypatch.setattr(loading, "MAX_TENSORS", 1)
    with pytest.raises(UserError, match="w.pth: 2 tensors; a checkpoint may have at most 1"):
        loading.read_state_dict(tmp_path / "w.pth")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": torch.zeros(1).expand(10**6, 10**6)},
            "the tensors up to `a`, of shape .1000000, 1000000., take more than .* bytes; refused",
        ),
        ({"a": torch.zeros(1).expand(2**28), "b": torch.zeros(1).expand(2**29)}, "the tensors up to `b`, .* take more than"),
        ({"a": torch.zeros([1] * 9)}, "`a` has 9 dimensions; allowed: at most 8"),
        ({"a": torch.empty(3, device="meta")}, "`a` is without values .device meta.; expected a dense tensor"),
        ({"a": torch.ones(2, dtype=torch.complex64)}, "`a` is torch.strided torch.complex64; expected a dense"),
        ({"a": torch.ones(2).to_sparse()}, "`a` is torch.sparse_coo torch.float32; expected a dense"),
        ({"a" * 501: torch.ones(1)}, "a tensor's name has 501 characters; allowed: at most 500"),
        ({1: torch.ones(1)}, "expected a mapping from names to tensors"),
    ],
)
def test_tensors_beyond_the_limits_are_refused(tmp_path, value, message):
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(UserError, match=f"w.pth: {message}"):
        loading.read_state_dict(tmp_path / "w.pth")


def test_too_many_tensors_in_a_safetensors_file_are_refused(tmp_path, monkeypatch):
    save_file(STATE, tmp_path / "w.safetensors")
    monkeypatch.setattr(loading, "MAX_TENSORS", 1)
    with pytest.raises(UserError, match="w.safetensors: 2 tensors; a checkpoint may have at most 1"):
        loading.read_state_dict(tmp_path / "w.safetensors")


# ---- verification -----------------------------------------------------------------------------------------------------------------------


def test_a_files_hash_is_returned_and_checked(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    path.write_bytes(b"abc")
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert loading.verify(path, "") == loading.verify(path, digest) == digest
    with pytest.raises(UserError, match=f"w.pth: SHA-256 is {digest}, the manifest expects {'0' * 64}; fetch the file again"):
        loading.verify(path, "0" * 64)
    assert loading.verify(path, digest[:8]) == digest
    with pytest.raises(UserError, match="the manifest expects ba7816b0"):
        loading.verify(path, "ba7816b0")
    with pytest.raises(UserError, match="absent.pth: the checkpoint is missing"):
        loading.verify(tmp_path / "absent.pth", "")
    monkeypatch.setattr(loading, "MAX_BYTES", 2)
    with pytest.raises(UserError, match="w.pth: 3 bytes; a checkpoint may have at most 2"):
        loading.verify(path, "")


# ---- filling a network ------------------------------------------------------------------------------------------------------------------


def linear_state(**changes):
    state = {**torch.nn.Linear(3, 2).state_dict(), **changes}
    return {name: tensor for name, tensor in state.items() if tensor is not None}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (linear_state(bias=None), "1 tensors missing, first `bias`; is `architecture` in the manifest right"),
        (linear_state(other=torch.ones(1)), "1 unexpected tensors, first `other`"),
        (linear_state(weight=torch.ones(3, 2)), r"`weight` has shape \[3, 2\], the architecture expects \[2, 3\]"),
        (linear_state(bias=torch.tensor([1, torch.nan])), "`bias` holds NaN or infinity"),
        (linear_state(bias=torch.tensor([1, -torch.inf])), "`bias` holds NaN or infinity"),
        (linear_state(bias=torch.tensor([1, torch.nan], dtype=torch.float16)), "`bias` holds NaN or infinity"),
        (
            linear_state(bias=torch.ones(2, dtype=torch.complex64)),
            "`bias` is torch.strided torch.complex64; expected a dense tensor of real numbers",
        ),
        (linear_state(bias=torch.ones(2).to_sparse()), "`bias` is torch.sparse_coo torch.float32; expected a dense"),
    ],
)
def test_a_state_that_does_not_match_leaves_the_network_unchanged(tmp_path, state, message):
    layer = torch.nn.Linear(3, 2)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    with pytest.raises(UserError, match=f"w.pth: {message}"):
        loading.fill(layer, state, tmp_path / "w.pth")
    assert_equal(layer.state_dict(), before)


def test_half_precision_weights_are_accepted(tmp_path):
    layer = torch.nn.Linear(3, 2)
    state = {name: tensor.half() for name, tensor in linear_state().items()}
    loading.fill(layer, state, tmp_path)
    assert_equal(layer.state_dict(), {name: tensor.float() for name, tensor in state.items()})


def test_the_number_of_batches_may_be_missing_and_is_then_not_changed(tmp_path):
    layer = torch.nn.BatchNorm2d(2)
    state = {name: value + 1 for name, value in layer.state_dict().items() if name != "num_batches_tracked"}
    loading.fill(layer, state, tmp_path)
    assert_equal(layer.state_dict(), {**state, "num_batches_tracked": torch.tensor(0)})


def test_fill_changes_values_in_place_only(tmp_path):
    layer = torch.nn.Linear(3, 2)
    weight = layer.weight
    loading.fill(layer, linear_state(), tmp_path)
    assert layer.weight is weight and weight.requires_grad and weight.grad_fn is None
