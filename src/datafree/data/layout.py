"""Layout of a user's image folder, ``<folder>/<split>/<class>/<image>``: its files, classes and domains. Imports no PyTorch."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from datafree.data import SPLITS
from datafree.errors import UserError

# Notes and annotation files, often stored next to images. Any other file must be an image: skipping a photo in an unreadable format, for
# example, would change the data silently.
NOT_IMAGES = {
    *(".csv", ".db", ".html", ".ini", ".json", ".jsonl", ".md", ".mat", ".toml", ".tsv", ".txt", ".xml", ".yaml", ".yml"),
    *(".onnx", ".pt2", ".safetensors"),
}


def class_files(folder: str | Path, split: str) -> dict[str, list[Path]]:
    """The image files of every class of a split; classes and files are sorted by name.

    Hidden files and folders (their name starts with a dot), files directly in the split's folder, and notes (``NOT_IMAGES``) are
    skipped. Every other file counts as an image, whatever its extension.

    Raises:
        UserError: no such folder or split, fewer than two classes, a class without an image, or a folder inside a class.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"data.folder: {root} is not a folder; name the one that holds train/, validation/ and test/")
    if not (root / split).is_dir():
        raise UserError(f"data.folder: {root} has no folder `{split}`; expected {split}/<class>/<image>")
    return labelled_files(root / split)


def labelled_files(folder: Path) -> dict[str, list[Path]]:
    """The image files of every class, one sub-folder each, as ``class_files`` gives them for a split.

    Raises:
        UserError: no such folder, fewer than two classes, a class without an image, or a folder inside a class.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder; name the one that has a folder of images for each class")
    classes = [path for path in _visible(folder) if path.is_dir()]
    if len(classes) < 2:
        raise UserError(f"{folder}: expected at least 2 class folders, got {len(classes)}; give each class a folder of its images")
    return {path.name: _images(path) for path in classes}


def unlabelled_files(folder: Path) -> list[Path]:
    """All image files in a folder and its sub-folders, sorted; hidden ones and notes are skipped. Links to folders are not followed.

    Raises:
        UserError: it has none.
        OSError: a sub-folder cannot be read.
    """
    files = []
    for place, folders, names in os.walk(folder, onerror=_raise):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(place, name) for name in names if not name.startswith(".")]
    files.sort()
    images = [path for path in files if path.suffix.lower() not in NOT_IMAGES]
    if not images:
        raise UserError(f"{folder}: expected images, found none")
    return images


def by_domain(classes: Iterable[str]) -> dict[str, list[int]]:
    """Class indices by domain, the part of a class name before its first dot; domains are sorted by name.

    Raises:
        UserError: a name without a domain.
    """
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(classes):
        domain, dot, _ = name.partition(".")
        if not domain or not dot:
            raise UserError(f"data.folder: class {name!r} has no domain; expected a folder name such as `drawings.cat`")
        indices.setdefault(domain, []).append(index)
    return dict(sorted(indices.items()))


def of_domain(classes: Iterable[str], domain: str) -> list[int]:
    """Indices of the classes of one domain; of all classes if ``domain`` is empty."""
    return [index for index, name in enumerate(classes) if not domain or name.startswith(f"{domain}.")]


def listing_hash(folder: str | Path) -> str:
    """A short hash over name, size and modification time of every image file of every split; opens no file."""
    digest = hashlib.sha256()
    for split in SPLITS:
        for name, files in class_files(folder, split).items():
            for path in files:
                status = path.stat()
                digest.update(f"{split}/{name}/{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]


def _images(folder: Path) -> list[Path]:
    files = _visible(folder)
    for path in files:
        if path.is_dir():
            raise UserError(f"{path}: a folder inside a class; move its images up into {folder}, or remove it")
        if not path.is_file():
            raise UserError(f"{path}: is no regular file, or a link to none; remove it")
    images = [path for path in files if path.suffix.lower() not in NOT_IMAGES]
    if not images:
        raise UserError(f"{folder}: expected images of the class, found none; add some, or remove the folder")
    return images


def _raise(error: OSError) -> None:
    raise error


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
