"""The teacher manifest: a YAML file that lists each teacher's source, architecture, classes and input.

Imports no PyTorch, because Snakemake reads the manifest on every start. See ``docs/bring-your-own-zoo.md`` for the format.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datafree.config import BackboneConfig, merge
from datafree.config.bounded import check_bounded, read_yaml
from datafree.config.coercion import coerce, short
from datafree.config.schema import BACKBONES, backbone_family
from datafree.errors import UserError
from datafree.zoo import keys

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
SHA256 = re.compile(r"[0-9a-f]{64}")
TORCHVISION = re.compile(r"\w+_Weights\.\w+", re.ASCII)
TIMM = re.compile(r"\w[\w.-]*", re.ASCII)
HUB = re.compile(r"[\w.-]+/[\w.-]+(/[\w-][\w.-]*)+(@[\w.-]+)?", re.ASCII)

SOURCES = ("file", "url", "torchvision", "timm", "hub", "train")
IMAGENET_CLASSES = 1000  # of every classifier that torchvision publishes


@dataclass
class Architecture:
    """A name of ``datafree.config.schema.BACKBONES`` and the channels of the first stage.

    A width of 0 stands for the usual one in a manifest; ``read_manifest`` fills it in. It stays 0 for models of a library, which have
    their own.
    """

    name: str = "conv4"
    width: int = 0

    def backbone(self) -> BackboneConfig:
        """The configuration for ``datafree.zoo.backbones.build``."""
        return BackboneConfig(self.name, self.width)


@dataclass
class TrainSource:
    """Train the teacher in the pipeline, for studies in which the real data exists but later stages do not use it."""

    classes: int = 8  # number of classes, drawn at random from the training split with ``seed``
    seed: int = 0
    steps: int | None = None  # of the optimiser; null = zoo.training.steps, 0 = weights as initialised
    domain: str = ""  # draw only from classes whose name begins with it and a dot; empty = all
    label_noise: float = 0.0  # share of the training images with a random label: to study poor teachers


@dataclass
class Entry:
    """One teacher. Exactly one of ``SOURCES`` is set: the source of its weights."""

    name: str = ""
    architecture: Architecture = field(default_factory=Architecture)
    file: str = ""  # a safetensors or PyTorch state dict; relative to the manifest
    url: str = ""  # http or https; needs sha256
    torchvision: str = ""  # published weights, such as ResNet18_Weights.IMAGENET1K_V1
    timm: str = ""  # a pretrained model of timm, such as resnet18.a1_in1k; needs sha256 and the extra `timm`
    hub: str = ""  # a file on the Hugging Face hub, owner/repository/file, then @revision if not the newest; needs sha256, extra `hub`
    sha256: str = ""  # of the file; required for url, timm and hub, optional for file and torchvision
    train: TrainSource | None = None
    keys: dict[str, str | None] = field(default_factory=dict)  # renames tensors, see datafree.zoo.keys
    classes: list[str] = field(default_factory=list)  # in the order of the logits; not for train, optional for torchvision
    input: list[int] = field(default_factory=lambda: [3, 32, 32])  # channels, height, width
    mean: list[float] = field(default_factory=lambda: [0.5, 0.5, 0.5])  # of images scaled to [0, 1]
    std: list[float] = field(default_factory=lambda: [0.25, 0.25, 0.25])
    licence: str = "unknown"

    @property
    def class_count(self) -> int:
        if self.train:
            return self.train.classes
        return IMAGENET_CLASSES if self.torchvision and not self.classes else len(self.classes)

    @property
    def origin(self) -> str:
        """The source of the weights, as text for the card."""
        if self.train:
            return "trained on the training split"
        library = next((name for name in ("torchvision", "timm", "hub") if getattr(self, name)), "")
        return f"{library}: {getattr(self, library)}" if library else self.url or self.file


def read_manifest(path: str | Path, limit: int | None = None) -> list[Entry]:
    """The first ``limit`` teachers (None = all) of a manifest, in its order; ``defaults`` apply to every entry.

    Raises:
        UserError: unreadable file, or an entry that is incomplete, contradictory or misspelt; names file, teacher and key.
    """
    tree = read_yaml(path, "zoo.manifest")
    if not isinstance(tree, dict) or not isinstance(tree.get("teachers"), list) or not tree["teachers"]:
        raise UserError(f"{path}: expected a mapping with a non-empty list `teachers`")
    if unknown := set(tree) - {"teachers", "defaults"}:
        raise UserError(f"{path}: unknown key {sorted(unknown, key=str)[0]!r}; allowed: defaults, teachers")
    defaults = tree.get("defaults") or {}
    if not isinstance(defaults, dict):
        raise UserError(f"{path}: defaults: expected a mapping, got {short(defaults)}")
    check_bounded(defaults, f"{path}: defaults")
    entries = [_entry(path, position, spec, defaults) for position, spec in enumerate(tree["teachers"])]
    name, count = Counter(entry.name for entry in entries).most_common(1)[0]
    if count > 1:
        raise UserError(f"{path}: the teacher name {name!r} occurs {count} times; names must differ")
    return entries[:limit]


def _entry(path: str | Path, position: int, spec: Any, defaults: dict[str, Any]) -> Entry:
    if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
        raise UserError(f"{path}: teacher {position + 1}: expected a mapping with a `name`, got {short(spec)}")
    where = f"{path}: {spec['name'][:80]}"
    if not NAME.fullmatch(spec["name"]):
        raise UserError(f"{where}: a name may hold letters, digits, `_` and `-` only; it becomes a folder")
    check_bounded(spec, where)
    tree = _with_defaults(spec, defaults)
    try:
        entry: Entry = coerce(Entry, tree)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    _check_source(where, entry)
    _check_network(where, entry)
    entry.architecture.width = entry.architecture.width or BACKBONES.get(backbone_family(entry.architecture.name), 0)
    return entry


def _with_defaults(spec: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """The entry merged over the defaults, except ``keys`` and a named ``architecture``, which replace theirs as a whole."""
    replaced = {"keys"} & set(spec)
    if isinstance(spec.get("architecture"), dict) and "name" in spec["architecture"]:
        replaced.add("architecture")
    return merge({key: value for key, value in defaults.items() if key not in replaced}, spec)


def _check_source(where: str, entry: Entry) -> None:
    sources = [name for name in SOURCES if getattr(entry, name)]
    if len(sources) != 1:
        raise UserError(f"{where}: expected exactly one of {', '.join(SOURCES)}; got {', '.join(sources) or 'none'}")
    if entry.url:
        _check_url(where, entry.url)
    if entry.torchvision and not TORCHVISION.fullmatch(entry.torchvision):
        raise UserError(f"{where}: torchvision: got {entry.torchvision!r}; expected weights such as ResNet18_Weights.IMAGENET1K_V1")
    if entry.timm and not TIMM.fullmatch(entry.timm):
        raise UserError(f"{where}: timm: got {entry.timm!r}; expected a pretrained model such as resnet18.a1_in1k")
    if entry.hub and (not HUB.fullmatch(entry.hub) or ".." in entry.hub):
        raise UserError(f"{where}: hub: got {entry.hub!r}; expected owner/repository/file, then @revision if not the newest")
    if (entry.url or entry.timm or entry.hub) and not entry.sha256:
        raise UserError(f"{where}: sha256: missing; a download must be checked, give the file's SHA-256")
    if entry.sha256 and not SHA256.fullmatch(entry.sha256):
        raise UserError(f"{where}: sha256: got {entry.sha256!r}; expected 64 hexadecimal digits in lower case")
    if entry.train and entry.classes:
        raise UserError(f"{where}: classes: given, but the classes of a trained teacher are drawn at random; remove one of the two")
    if entry.train and entry.train.classes < 2:
        raise UserError(f"{where}: train.classes: got {entry.train.classes}; allowed: at least 2")
    if entry.train and (entry.train.steps or 0) < 0:
        raise UserError(f"{where}: train.steps: got {entry.train.steps}; allowed: at least 0")
    if entry.train and not 0 <= entry.train.label_noise <= 1:
        raise UserError(f"{where}: train.label_noise: got {entry.train.label_noise}; allowed: 0 to 1")
    if not entry.train and entry.class_count < 2:
        raise UserError(f"{where}: classes: expected at least 2 names in the order of the logits, got {len(entry.classes)}")
    if len(set(entry.classes)) < len(entry.classes):
        raise UserError(f"{where}: classes: a name occurs twice; the names of one teacher must differ")


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        sound, parts = False, urlsplit("")
    if not sound:
        raise UserError(f"{where}: url: got {url!r}; allowed: http:// and https://")
    if parts.username or parts.password:
        raise UserError(f"{where}: url: holds a user or password, which would be copied into the card; put them into ~/.netrc")


def _check_keys(where: str, rules: keys.Rules) -> None:
    try:
        keys.check(rules)
    except UserError as error:
        raise UserError(f"{where}: keys: {error}") from None


def _check_network(where: str, entry: Entry) -> None:
    width, family = entry.architecture.width, backbone_family(entry.architecture.name)
    if width < 0:
        raise UserError(f"{where}: architecture.width: got {width}; allowed: at least 1, or 0 for the default width")
    if width and BACKBONES.get(family) == 0:
        raise UserError(f"{where}: architecture.width: got {width}; {entry.architecture.name} has a fixed width, remove the key")
    _check_keys(where, entry.keys)
    if len(entry.input) != 3 or min(entry.input) < 1 or entry.input[1] != entry.input[2]:
        raise UserError(f"{where}: input: got {entry.input}; expected [channels, height, width] with height = width")
    finite = all(math.isfinite(value) for value in (*entry.mean, *entry.std))
    if len(entry.mean) != entry.input[0] or len(entry.std) != entry.input[0] or min(entry.std) <= 0 or not finite:
        raise UserError(f"{where}: mean, std: expected {entry.input[0]} values each, std above 0; got {entry.mean} and {entry.std}")
