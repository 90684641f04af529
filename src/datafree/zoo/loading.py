"""Loading a stranger's checkpoint: bounded in size, checked by hash, without executing anything in it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import torch
from torch import Tensor, nn

from datafree import artifacts
from datafree.errors import UserError

MAX_BYTES = 2 * 2**30  # of a file, and of what it unpacks to
MAX_TENSORS = 10_000
WRAPPERS = ("state_dict", "model", "teacher")


def verify(path: Path, sha256: str) -> str:
    """The file's SHA-256.

    Raises:
        UserError: missing, too large, or not the expected hash.
    """
    if not path.is_file():
        raise UserError(f"{path}: the checkpoint is missing; correct `file` in the manifest or put it there")
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path}: {path.stat().st_size} bytes; a checkpoint may have at most {MAX_BYTES}")
    digest = artifacts.sha256(path)
    if sha256 and digest != sha256:
        raise UserError(f"{path}: SHA-256 is {digest}, the manifest expects {sha256}; fetch the file again or correct the manifest")
    return digest


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from safetensors or a PyTorch file; the usual wrappers and DataParallel's prefix are taken off.

    Raises:
        UserError: not a state dict, corrupt, too large, or a pickle with anything but tensors in it.
    """
    tensors = artifacts.read_tensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if len(tensors) > MAX_TENSORS:
        raise UserError(f"{path}: {len(tensors)} tensors; a checkpoint may have at most {MAX_TENSORS}")
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                    raise UserError(f"{path}: unpacks to more than {MAX_BYTES} bytes; refused")
        value = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # damaged bytes can make the readers fail with any type of exception
        reason = " ".join(str(error).split())[:120]
        raise UserError(
            f"{path}: not a plain state dict ({reason}); save one with `safetensors.torch.save_file(model.state_dict(), ...)`"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(value, dict) and isinstance(value.get(wrapper), dict):
            value = value[wrapper]
    if not isinstance(value, dict) or not value or not all(isinstance(tensor, Tensor) for tensor in value.values()):
        raise UserError(f"{path}: expected a mapping from names to tensors; save `model.state_dict()`")
    return {str(name): tensor for name, tensor in value.items()}


def fill(module: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors into a module, strictly.

    Raises:
        UserError: missing or unexpected names, other shapes, or values that are not finite.
    """
    wanted = module.state_dict()
    if missing := sorted(set(wanted) - set(tensors)):
        raise UserError(f"{path}: {len(missing)} tensors missing, first `{missing[0]}`; is `architecture` in the manifest right?")
    if extra := sorted(set(tensors) - set(wanted)):
        raise UserError(f"{path}: {len(extra)} unexpected tensors, first `{extra[0]}`; is `architecture` in the manifest right?")
    for name, tensor in tensors.items():
        if tensor.shape != wanted[name].shape:
            raise UserError(f"{path}: `{name}` has shape {list(tensor.shape)}, the architecture expects {list(wanted[name].shape)}")
        if tensor.layout != torch.strided or tensor.is_complex():
            raise UserError(f"{path}: `{name}` is {tensor.layout} {tensor.dtype}; expected a dense tensor of real numbers")
        if tensor.is_floating_point() and not torch.isfinite(tensor.float()).all():
            raise UserError(f"{path}: `{name}` holds NaN or infinity; the checkpoint is damaged")
    module.load_state_dict(tensors)
