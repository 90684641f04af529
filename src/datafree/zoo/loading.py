"""Safe loading of untrusted checkpoints: bounded in size, verified by SHA-256, without executing any code in the file."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from datafree.errors import UserError
from datafree.zoo import hashing, keys, pickles

MAX_BYTES = 2 * 2**30  # of a file, of its unpacked content, and of its tensors
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8  # of one tensor
MAX_NAME = 500  # characters of a tensor's name
MAX_PICKLE = 64 * 2**20  # bytes of the pickle that describes the tensors, without their values
WRAPPERS = ("state_dict", "model_state_dict", "model", "teacher", "net")  # keys of the state dict in common files
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
LEGACY_PICKLES = 5  # at the start of a PyTorch file from before the zip format, followed by the values

CONVERT = "`torch.save(torch.load(file, weights_only=False).state_dict(), 'weights.pth')`"
CONVERT_SCRIPT = "`torch.save(torch.jit.load(file).state_dict(), 'weights.pth')`"


class Refused(Exception):
    """The reason for refusing a file, without the file's name."""


def verify(path: Path, sha256: str) -> str:
    """The file's SHA-256; ``sha256`` is the expected hash or its beginning.

    Raises:
        UserError: the file is missing, unreadable or too large, or has another hash.
    """
    require_file(path)
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes; a checkpoint may have at most {MAX_BYTES}")
    try:
        digest = hashing.sha256(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); change its permissions or `file` in the manifest") from None
    if not digest.startswith(sha256):
        raise UserError(f"{path}: SHA-256 is {digest}, the manifest expects {sha256}; fetch the file again or correct the manifest")
    return digest


def require_file(path: Path) -> None:
    """Require an existing regular file.

    Raises:
        UserError: there is none, or it cannot be accessed.
    """
    try:
        exists = path.is_file()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); change its permissions or `file` in the manifest") from None
    if not exists:
        raise UserError(f"{path}: the checkpoint is missing; correct `file` in the manifest or put it there")


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a safetensors or PyTorch file, without the usual wrappers and without the prefixes of DataParallel and compile.

    Every tensor is dense, real-valued and on the CPU; together they have at most ``MAX_BYTES``.

    Raises:
        UserError: not a state dict, corrupt, too large, or a pickle that holds anything but tensors.
    """
    require_file(path)
    try:
        tensors = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
        _check_tensors(tensors)
    except Refused as reason:
        raise UserError(f"{path}: {reason}") from None
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def rename(tensors: dict[str, Tensor], rules: keys.Rules, path: Path) -> dict[str, Tensor]:
    """The tensors under the names that ``rules`` give them; see ``datafree.zoo.keys``.

    Raises:
        UserError: two tensors would get the same name.
    """
    try:
        return {new: tensors[old] for old, new in keys.rename(tensors, rules).items()}
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            if len(names) > MAX_TENSORS:
                raise Refused(f"{len(names)} tensors; a checkpoint may have at most {MAX_TENSORS}")
            return {name: file.get_tensor(name) for name in names}
    except Refused:
        raise
    except Exception as error:  # damaged headers can make the reader fail with any type of exception
        what = "not a readable safetensors file" if isinstance(error, (SafetensorError, OSError, ValueError)) else "not readable"
        raise Refused(f"{what} ({_line(error)}); fetch it again") from None


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        _inspect(path)
        value = torch.load(path, map_location="cpu", weights_only=True)
    except Refused:
        raise
    except pickles.Suspicious as error:
        raise Refused(_not_a_state_dict(str(error))) from None
    except Exception as error:  # damaged bytes can make the readers fail with any type of exception
        forbidden = re.search(r"GLOBAL ([\w.]+)", str(error))
        if forbidden:
            raise Refused(
                f"not a plain state dict but a pickle that runs code ({forbidden[1][:80]}); it is not loaded. If you trust it, convert it "
                f"elsewhere with {CONVERT}, or save it as safetensors"
            ) from None
        raise Refused(_not_a_state_dict(_line(error))) from None
    return _unwrap(value)


def _inspect(path: Path) -> None:
    """Refuse archives whose unpacked content is too large, and pickles made to exhaust the time or the stack of their reader."""
    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        if zipped:
            with zipfile.ZipFile(file) as archive:
                _inspect_archive(archive)
            return
        for _ in range(LEGACY_PICKLES):
            pickles.inspect(file)
            if not file.peek(1):
                return


def _inspect_archive(archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise Refused(f"unpacks to more than {MAX_BYTES} bytes; refused")
    if len(members) > MAX_TENSORS + 100:
        raise Refused(f"{len(members)} files inside; a checkpoint may have at most {MAX_TENSORS} tensors")
    names = [member.filename.lower() for member in members]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        raise Refused(
            f"a TorchScript archive, which holds code; it is not loaded. If you trust it, convert it elsewhere with {CONVERT_SCRIPT}"
        )
    if len(set(names)) < len(names) or any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise Refused(_not_a_state_dict("an archive that PyTorch did not write"))
    for member in members:
        if member.filename.lower().endswith(".pkl"):
            if member.file_size > MAX_PICKLE:
                raise Refused(f"{member.filename} has {member.file_size} bytes; at most {MAX_PICKLE} may describe the tensors")
            pickles.inspect(io.BytesIO(archive.read(member)))


def _unwrap(value: Any) -> dict[str, Tensor]:
    for _ in WRAPPERS:
        inner = next((value[name] for name in WRAPPERS if isinstance(value, dict) and isinstance(value.get(name), dict)), None)
        if inner is None:
            break
        value = inner
    sound = isinstance(value, dict) and value and all(isinstance(name, str) for name in value)
    if not sound or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise Refused("expected a mapping from names to tensors; save `model.state_dict()`")
    return dict(value)


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    if len(tensors) > MAX_TENSORS:
        raise Refused(f"{len(tensors)} tensors; a checkpoint may have at most {MAX_TENSORS}")
    total = 0
    for name, tensor in tensors.items():
        if len(name) > MAX_NAME:
            raise Refused(f"a tensor's name has {len(name)} characters; allowed: at most {MAX_NAME}")
        if tensor.layout != torch.strided or tensor.is_complex() or tensor.is_quantized or tensor.device.type != "cpu":
            kind = f"{tensor.layout} {tensor.dtype}" if tensor.device.type == "cpu" else f"without values (device {tensor.device})"
            raise Refused(f"`{name}` is {kind}; expected a dense tensor of real numbers")
        if tensor.dim() > MAX_DIMENSIONS:
            raise Refused(f"`{name}` has {tensor.dim()} dimensions; allowed: at most {MAX_DIMENSIONS}")
        # Counted from the shape: with strides of zero, one stored value can make a tensor of any size.
        total += tensor.numel() * tensor.element_size()
        if total > MAX_BYTES:
            raise Refused(f"the tensors up to `{name}`, of shape {list(tensor.shape)}, take more than {MAX_BYTES} bytes; refused")


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with ``prefix``, under the rest of their names."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Copy tensors into a module, strictly: only ``num_batches_tracked`` may be missing, which evaluation does not use.

    Raises:
        UserError: missing or unexpected names, other shapes, integers for weights, values that are not finite, negative variances.
    """
    wanted = module.state_dict()
    needed = {name for name in wanted if not name.endswith("num_batches_tracked")}  # files from before PyTorch 0.4.1 have none
    if missing := sorted(needed - set(tensors)):
        raise UserError(f"{path}: {len(missing)} tensors missing, first `{missing[0]}`; is `architecture` in the manifest right?")
    if extra := sorted(set(tensors) - set(wanted)):
        raise UserError(f"{path}: {len(extra)} unexpected tensors, first `{extra[0]}`; is `architecture` in the manifest right?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(f"{path}: `{name}` has shape {list(tensor.shape)}, the architecture expects {list(wanted[name].shape)}")
        if tensor.layout != torch.strided or tensor.is_complex():
            raise UserError(f"{path}: `{name}` is {tensor.layout} {tensor.dtype}; expected a dense tensor of real numbers")
        if wanted[name].is_floating_point() and not tensor.is_floating_point():
            raise UserError(f"{path}: `{name}` is {tensor.dtype}; expected floating-point numbers, save the weights before quantisation")
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity; the checkpoint is damaged")
        if name.endswith("running_var") and (tensor.float() < 0).any():
            raise UserError(f"{path}: `{name}` holds a negative variance; the checkpoint is damaged")
    with torch.no_grad():
        # Not load_state_dict: some modules of torchvision require version numbers there, which a safetensors file does not hold.
        for name, tensor in tensors.items():
            wanted[name].copy_(tensor)


def _not_a_state_dict(reason: str) -> str:
    return f"not a plain state dict ({reason}); save one with `safetensors.torch.save_file(model.state_dict(), ...)`"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
