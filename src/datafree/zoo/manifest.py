"""The teacher manifest: a YAML file that says where each teacher comes from and what it expects.

Pure Python, nothing heavy: Snakemake reads it on every start. See ``docs/bring-your-own-zoo.md`` for the format.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from datafree.config import merge
from datafree.errors import UserError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass
class Architecture:
    name: str = "conv4"
    width: int = 32


@dataclass
class TrainSource:
    """Train the teacher here, on real data: for studies, where the data exists and is then withheld."""

    classes: int = 8  # how many of the training split's classes, drawn with the entry's seed
    seed: int = 0


@dataclass
class Entry:
    """One teacher. Exactly one of ``file``, ``url`` and ``train`` says where the weights come from."""

    name: str = ""
    architecture: Architecture = field(default_factory=Architecture)
    file: str = ""  # a safetensors or PyTorch state dict; relative to the manifest
    url: str = ""  # http or https; needs sha256
    sha256: str = ""  # of the file; required for url, checked for file when given
    train: TrainSource | None = None
    classes: list[str] = field(default_factory=list)  # in the order of the logits; for train they are drawn
    input: list[int] = field(default_factory=lambda: [3, 32, 32])  # channels, height, width
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])  # of images scaled to [0, 1]
    std: list[float] = field(default_factory=lambda: [0.25, 0.25, 0.25])
    licence: str = "unknown"

    @property
    def class_count(self) -> int:
        return self.train.classes if self.train else len(self.classes)


def read_manifest(path: str | Path, limit: int = 0) -> list[Entry]:
    """The teachers of a manifest in its order, at most ``limit`` of them (0 = all). ``defaults`` apply to every entry.

    Raises:
        UserError: unreadable file, or an entry that is incomplete, contradictory or misspelt; names file, teacher and key.
    """
    path = Path(path)
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"zoo.manifest: cannot read {path}: {error.strerror}") from None
    except Exception as error:  # PyYAML lets other errors through, such as a ValueError for the date 2020-13-45
        raise UserError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get("teachers"), list) or not tree["teachers"]:
        raise UserError(f"{path}: expected a mapping with a non-empty list `teachers`")
    if unknown := set(tree) - {"teachers", "defaults"}:
        raise UserError(f"{path}: unknown key {sorted(unknown, key=str)[0]!r}; allowed: defaults, teachers")
    defaults = tree.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UserError(f"{path}: defaults: expected a mapping, got {defaults!r}")
    entries = [_entry(path, position, spec, defaults) for position, spec in enumerate(tree["teachers"])]
    names = [entry.name for entry in entries]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"{path}: the teacher name {name!r} occurs {names.count(name)} times; names must differ")
    return entries[: limit or None]


def _entry(path: Path, position: int, spec: Any, defaults: dict[str, Any]) -> Entry:
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise UserError(f"{path}: teacher {position + 1}: expected a mapping with a `name`, got {spec!r}")
    where = f"{path}: {spec['name']}"
    if not NAME.fullmatch(spec["name"]):
        raise UserError(f"{where}: a name may hold letters, digits, `_` and `-` only; it becomes a folder")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Entry), OmegaConf.create(merge(defaults, spec)))
        entry = OmegaConf.to_object(merged)
    except Exception as error:  # OmegaConf lets other errors through, such as a RecursionError
        reason = str(error).partition("\n")[0]
        raise UserError(f"{where}: {getattr(error, 'full_key', '') or 'entry'}: {reason}") from None
    assert isinstance(entry, Entry)
    _check(where, entry)
    return entry


def _check(where: str, entry: Entry) -> None:
    sources = [name for name in ("file", "url", "train") if getattr(entry, name)]
    if len(sources) != 1:
        raise UserError(f"{where}: expected exactly one of file, url and train, got {', '.join(sources) or 'none'}")
    if entry.url and not entry.url.startswith(("http://", "https://")):
        raise UserError(f"{where}: url: got {entry.url!r}; allowed: http:// and https://")
    if entry.url and not entry.sha256:
        raise UserError(f"{where}: sha256: missing; a download must be checked, give the file's SHA-256")
    if entry.sha256 and not SHA256.fullmatch(entry.sha256):
        raise UserError(f"{where}: sha256: got {entry.sha256!r}; expected 64 hexadecimal digits in lower case")
    if not entry.train and len(entry.classes) < 2:
        raise UserError(f"{where}: classes: expected at least 2 names in the order of the logits, got {len(entry.classes)}")
    if len(set(entry.classes)) < len(entry.classes):
        raise UserError(f"{where}: classes: a name occurs twice; the names of one teacher must differ")
    if entry.train and entry.classes:
        raise UserError(f"{where}: classes: given, but a trained teacher draws its classes; remove one of the two")
    if entry.train and entry.train.classes < 2:
        raise UserError(f"{where}: train.classes: got {entry.train.classes}; allowed: at least 2")
    if entry.architecture.width < 1:
        raise UserError(f"{where}: architecture.width: got {entry.architecture.width}; allowed: at least 1")
    if len(entry.input) != 3 or min(entry.input) < 1 or entry.input[1] != entry.input[2]:
        raise UserError(f"{where}: input: got {entry.input}; expected [channels, height, width] with height = width")
    finite = all(math.isfinite(value) for value in (*entry.mean, *entry.std))
    if len(entry.mean) != entry.input[0] or len(entry.std) != entry.input[0] or min(entry.std) <= 0 or not finite:
        raise UserError(f"{where}: mean, std: expected {entry.input[0]} values each, std above 0; got {entry.mean} and {entry.std}")
