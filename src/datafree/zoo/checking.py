"""``datafree zoo check``: load every teacher of a manifest, measure it, and report signs that it is broken or a duplicate."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from datafree.data.folder import folder_images
from datafree.data.images import ImageSet
from datafree.data.layout import class_files
from datafree.errors import UserError
from datafree.progress import progress
from datafree.zoo import plausibility, sources
from datafree.zoo.backbones import Normalise
from datafree.zoo.manifest import Entry, read_manifest
from datafree.zoo.teachers import freeze, load_checkpoint, make_card
from datafree.zoo.training import accuracy, logits_of

MIN_NOISE_IMAGES, MAX_NOISE_IMAGES = 12, 48
NOISE_MACS = 2e10  # multiply-adds to spend on noise images per teacher, within these numbers of images
MIN_LABELLED_IMAGES = 30  # below it an accuracy near chance is not significant

SOUND, BROKEN, TRAINED, DUPLICATE = "sound", "broken", "trained by the pipeline", "duplicate"


@dataclass(frozen=True)
class TeacherReport:
    """The result of ``check`` for one teacher.

    ``parameters``, ``macs`` (multiply-adds for one image) and ``batch_norm_layers`` are those of the architecture, None if it cannot be
    built. ``accuracy`` in [0, 1] is over ``images`` labelled images, None without any. A teacher with ``problems`` is broken;
    ``remarks`` do not change its state.
    """

    name: str
    source: str
    licence: str
    architecture: str
    classes: int
    parameters: int | None = None
    macs: int | None = None
    batch_norm_layers: int | None = None
    accuracy: float | None = None
    images: int = 0
    state: str = SOUND
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    weights: str = ""  # hash of the tensors, independent of the file format


class LabelledFolder:
    """Real images, one folder per class, to measure teachers whose class names match the folder names.

    Raises:
        UserError: no such folder, fewer than two classes, or a class without an image.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"--images: {folder} is not a folder; name one that holds a folder of images per class")
        self.folder = folder.resolve()
        self.classes = set(class_files(self.folder.parent, self.folder.name))
        self._read: dict[int, ImageSet] = {}

    def images_of(self, classes: tuple[str, ...], channels: int, size: int) -> tuple[Tensor, Tensor] | None:
        """Images uint8 [N, channels, size, size] and labels int64 [N], indices into ``classes``; None if the folder has none of them."""
        shared = [name for name in classes if name in self.classes]
        if not shared:
            return None
        if size not in self._read:
            self._read[size] = folder_images(self.folder.parent, self.folder.name, size)
        data = self._read[size]
        data = data.of_classes([data.classes.index(name) for name in shared])
        images = data.images if channels == 3 else data.images.float().mean(1, keepdim=True).round().to(torch.uint8)
        return images, torch.tensor([classes.index(name) for name in shared])[data.labels]


def check(manifest: Path, cache: Path, images: Path | None = None, limit: int | None = None) -> list[TeacherReport]:
    """A report on each of the first ``limit`` teachers (None = all), in the manifest's order. Downloads go to ``cache``.

    Raises:
        UserError: the manifest or the folder of images cannot be used. Problems of a single teacher are in its report.
    """
    entries = read_manifest(manifest, limit)
    folder = LabelledFolder(images) if images else None
    sizes: dict[tuple, dict[str, int]] = {}
    reports = [_check(entry, manifest.parent, cache, folder, sizes) for entry in progress(entries, len(entries), "zoo check")]
    return _mark_duplicates(reports)


def _check(entry: Entry, home: Path, cache: Path, folder: LabelledFolder | None, sizes: dict[tuple, dict[str, int]]) -> TeacherReport:
    config = entry.architecture.backbone()
    architecture = f"{config.name} {config.width}" if config.width else config.name
    report = TeacherReport(entry.name, entry.origin, entry.licence, architecture, entry.class_count)
    try:
        report = replace(report, **_size(entry, sizes))
        if entry.train:
            return replace(report, state=TRAINED)
        classes = tuple(sources.class_names(entry))
        network = freeze(load_checkpoint(entry, sources.fetch(entry, home, cache), len(classes)))
    except UserError as error:
        return replace(report, state=BROKEN, problems=(str(error).removeprefix(f"{entry.name}: "),))
    report = replace(report, weights=weights_hash(network))
    normalise = Normalise(entry.mean, entry.std)
    report = _check_on_noise(report, network, normalise, classes, entry.input)
    if folder is not None:
        report = _measure_accuracy(report, network, normalise, classes, entry.input, folder)
    return replace(report, state=BROKEN) if report.problems else report


def _size(entry: Entry, sizes: dict[tuple, dict[str, int]]) -> dict[str, int]:
    """The size of an entry's architecture, counted once per architecture: that takes longer than loading a small teacher."""
    key = (entry.architecture.name, entry.architecture.width, tuple(entry.input), entry.class_count)
    if key not in sizes:
        card = make_card(entry, [""] * entry.class_count, "", "", None)
        sizes[key] = {name: card[name] for name in ("parameters", "macs", "batch_norm_layers")}
    return sizes[key]


def _check_on_noise(
    report: TeacherReport, network: nn.Module, normalise: Normalise, classes: tuple[str, ...], shape: list[int]
) -> TeacherReport:
    count = int(min(max(NOISE_MACS / max(report.macs or 1, 1), MIN_NOISE_IMAGES), MAX_NOISE_IMAGES))
    problems, logits = plausibility.problems(network, normalise(plausibility.noise_images(shape, count)))
    remarks = []
    predicted = logits.argmax(1)
    if not problems and bool((predicted == predicted[0]).all()):
        remarks.append(f"it predicts `{classes[int(predicted[0])]}` for all {count} noise images; measure it with --images if you can")
    if not report.batch_norm_layers:
        remarks.append("it has no BatchNorm layer: inversion cannot match statistics and uses its other losses only")
    return replace(report, problems=tuple(problems), remarks=tuple(remarks))


def _measure_accuracy(
    report: TeacherReport, network: nn.Module, normalise: Normalise, classes: tuple[str, ...], shape: list[int], folder: LabelledFolder
) -> TeacherReport:
    labelled = folder.images_of(classes, shape[0], shape[1]) if shape[0] in (1, 3) else None
    if labelled is None:
        return replace(report, remarks=(*report.remarks, f"not measured: none of its classes has a folder in {folder.folder}"))
    images, labels = labelled
    measured = accuracy(logits_of(network, normalise, images, torch.device("cpu")), labels)  # pyright: ignore[reportArgumentType]
    report = replace(report, accuracy=measured, images=len(labels))
    if (measured_classes := len(labels.unique())) < len(classes):
        line = f"measured on {measured_classes} of its {len(classes)} classes, those with a folder"
        report = replace(report, remarks=(*report.remarks, line))
    chance = 1 / len(classes)
    if len(labels) >= MIN_LABELLED_IMAGES and measured < chance + 2 * math.sqrt(chance * (1 - chance) / len(labels)):
        line = f"accuracy {measured:.3f} on {len(labels)} images, no better than chance; is the order of `classes` that of the logits?"
        report = replace(report, problems=(*report.problems, line))
    return report


def weights_hash(network: nn.Module) -> str:
    """SHA-256, in hexadecimal, over names, shapes and values of all tensors except ``num_batches_tracked``."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        if not name.endswith("num_batches_tracked"):
            digest.update(f"{name} {list(tensor.shape)}\n".encode())
            digest.update(tensor.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _mark_duplicates(reports: list[TeacherReport]) -> list[TeacherReport]:
    first: dict[str, str] = {}
    counts = Counter(report.weights for report in reports if report.weights)
    marked = []
    for report in reports:
        if counts[report.weights] > 1 and first.setdefault(report.weights, report.name) != report.name:
            line = f"it has the same weights as {first[report.weights]}; its images would count twice"
            state = DUPLICATE if report.state == SOUND else report.state
            report = replace(report, state=state, remarks=(*report.remarks, line))
        marked.append(report)
    return marked
