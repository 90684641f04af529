"""Reading and writing stage files: atomic, self-describing, without executable content.

All stage files are read and written here. A file appears under its final name only when it is complete: it is written to a temporary
file in the same folder, flushed to disk, and renamed. Tensors are stored as safetensors (never pickle); everything else is JSON, CSV,
PNG or text.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datafree.errors import UserError

if TYPE_CHECKING:
    import torch
    from PIL import Image

MAX_TENSOR_FILE = 8 * 2**30  # bytes; no stage writes a larger file

_written: dict[str, str] = {}  # SHA-256 of the bytes that this process wrote, by path as given


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder, renamed to ``path`` if the block succeeds and removed if it does not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as written:
            os.fsync(written.fileno())
            written.seek(0)
            digest = hashlib.file_digest(written, "sha256").hexdigest()
        part.chmod(0o644)
        part.replace(path)
        _written[str(path)] = digest
    finally:
        part.unlink(missing_ok=True)


def write_tensors(path: str | Path, tensors: Mapping[str, torch.Tensor], **metadata: Any) -> None:
    """Save named tensors as safetensors; metadata values are stored as JSON text. The bytes depend only on the content."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    contiguous = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    header = {name: json.dumps(value, sort_keys=True) for name, value in sorted(metadata.items())}
    with atomic(path) as part:
        try:
            save_file(contiguous, part, metadata=header)
        except SafetensorError as error:
            # The library wraps the system's error, such as a full disk, in its own exception.
            raise OSError(errno.EIO, _line(error), str(path)) from None
        _sort_header(part)


def _sort_header(path: Path) -> None:
    """Rewrite a safetensors header with sorted keys: the library orders metadata by a per-process hash seed.

    A reordered header has the same length, so the tensor bytes keep their position.
    """
    with path.open("rb+") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        ordered = {"__metadata__": dict(sorted(header.pop("__metadata__", {}).items()))} if "__metadata__" in header else {}
        ordered |= dict(sorted(header.items()))
        text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise AssertionError("a sorted safetensors header cannot be longer than the original")
        file.seek(8)
        file.write(text.ljust(length, b" "))


def read_tensors(path: str | Path, *expected: str) -> dict[str, torch.Tensor]:
    """Load a safetensors file, or only its ``expected`` tensors, onto the CPU.

    Raises:
        UserError: missing, truncated, too large, not safetensors, or without an expected tensor.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    _require(path, MAX_TENSOR_FILE)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            for name in expected:
                if name not in names:
                    raise UserError(f"{path}: expected a tensor `{name}`, found {', '.join(names) or 'none'}; delete the file and rerun")
            return {name: file.get_tensor(name) for name in (expected or names)}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_line(error)}); delete it and rerun") from None


def read_metadata(path: str | Path) -> dict[str, Any]:
    """The metadata that ``write_tensors`` stored, decoded."""
    from safetensors import SafetensorError, safe_open

    _require(Path(path), MAX_TENSOR_FILE)
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: json.loads(value) for name, value in (file.metadata() or {}).items()}
    except (SafetensorError, ValueError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({_line(error)}); delete it and rerun") from None


def write_json(path: str | Path, value: Any) -> None:
    """Save JSON with sorted keys, two-space indents and a final newline; refuses NaN and infinity."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    with atomic(path) as part:
        part.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path, *expected: str) -> Any:
    """Load JSON; with ``expected`` keys, it must be a mapping that has at least these.

    Raises:
        UserError: missing, not JSON, or without an expected key.
    """
    path = Path(path)
    _require(path, 64 * 2**20)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path}: not readable JSON ({_line(error)}); delete it and rerun") from None
    for key in expected:
        if not isinstance(value, dict) or key not in value:
            raise UserError(f"{path}: expected a key `{key}`; delete the file and rerun")
    return value


def write_history(path: str | Path, rows: Sequence[Mapping[str, float | int]]) -> None:
    """Save a training curve as CSV: one row per logged step, columns in the order of the first row (``step`` first)."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["step"], lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})


def write_table(path: str | Path, columns: Sequence[str], rows: Iterable[Sequence[str | float]]) -> None:
    """Save rows of text and numbers as CSV."""
    with atomic(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows([columns, *([f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row] for row in rows)])


def read_history(path: str | Path) -> list[dict[str, float]]:
    """Load a training curve; empty cells are omitted.

    Raises:
        UserError: missing, or not a table of numbers.
    """
    _require(Path(path), 64 * 2**20)
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
    except (ValueError, TypeError, csv.Error, OSError) as error:
        raise UserError(f"{path}: not a readable training curve ({_line(error)}); delete it and rerun") from None


def write_image(path: str | Path, image: Image.Image) -> None:
    """Save an image as PNG."""
    with atomic(path) as part:
        image.save(part, format="PNG")


def write_text(path: str | Path, text: str) -> None:
    """Save text as UTF-8."""
    with atomic(path) as part:
        part.write_text(text, encoding="utf-8")


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal.

    Raises:
        UserError: the file is missing.
    """
    _require(Path(path), None)
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def written_hash(path: str | Path) -> str | None:
    """The SHA-256 of the bytes that this process last wrote to a file, whatever is there now; None if it wrote none."""
    return _written.get(str(Path(path)))


def _require(path: Path, limit: int | None) -> None:
    if not path.is_file():
        raise UserError(f"{path}: the file is missing; run the stage that writes it (`snakemake -n` shows which)")
    if limit is not None and path.stat().st_size > limit:
        raise UserError(f"{path}: {path.stat().st_size} bytes; expected at most {limit}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
