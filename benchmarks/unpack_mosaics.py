"""Unpack image sets that come as one .npz file into the folder layout of `data.folder`: FOLDER/<split>/<class>/<number>.png.

    python benchmarks/unpack_mosaics.py FOLDER train=cifarfs_train_a.npz train=cifarfs_train_b.npz \\
        validation=cifarfs_val.npz test=cifarfs_test.npz
    python benchmarks/unpack_mosaics.py data/multi-domain photos.train=cifarfs_train_a.npz photos.validation=cifarfs_val.npz \\
        photos.test=cifarfs_test.npz drawings.all=omniglot.npz objects.all=tinyimagenet_val.npz

A name before a dot is a domain: the names of the class folders begin with it and a dot, as `evaluation.by_domain` requires. `all` uses the
splits in the file, or divides its classes in order: half for training, a quarter each for validation and test.

Contents of a file:

- `webp` uint8 [bytes], `offset` int64 [classes + 1], `class_name` and `file_name` [classes, images]: one lossless image of 32x32 tiles
  per class, row by row.
- `jpeg` uint8 [bytes], `offset` int64 [images + 1], `label` [images] and `class_name`: one JPEG per image.
- `ink` uint8 [classes, images, 1379], `alphabet`, `alphabet_name`, `character` and `vinyals_split` (0, 1, 2): packed bits of Omniglot's
  105x105 drawings, saved black on white.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 32
SIDE = 105  # of an Omniglot drawing
SPLITS = ("train", "validation", "test")

# Name of a class, its split (0, 1, 2) or None if the file has no splits, and its images, each uint8 [H, W, 3] or [H, W].
Classes = Iterator[tuple[str, int | None, list[np.ndarray]]]


def mosaics(file: np.lib.npyio.NpzFile) -> Classes:
    webp, offset, count = file["webp"], file["offset"], file["file_name"].shape[1]
    for name, start, end in zip(file["class_name"], offset[:-1], offset[1:], strict=True):
        mosaic = np.asarray(Image.open(io.BytesIO(webp[start:end].tobytes())).convert("RGB"))
        rows, columns = mosaic.shape[0] // TILE, mosaic.shape[1] // TILE
        tiles = mosaic.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        yield str(name), None, list(tiles[:count])


def photos(file: np.lib.npyio.NpzFile) -> Classes:
    jpeg, offset, labels = file["jpeg"], file["offset"], file["label"]
    for label, name in enumerate(file["class_name"]):
        indices = np.flatnonzero(labels == label)
        images = [np.asarray(Image.open(io.BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes())).convert("RGB")) for i in indices]
        yield str(name).partition(",")[0].replace(" ", "_"), None, images  # the first of several synonyms


def drawings(file: np.lib.npyio.NpzFile) -> Classes:
    ink = np.unpackbits(file["ink"], axis=-1, count=SIDE * SIDE).reshape(*file["ink"].shape[:2], SIDE, SIDE)
    names = file["alphabet_name"][file["alphabet"]]
    for name, character, split, strokes in zip(names, file["character"], file["vinyals_split"], ink, strict=True):
        yield f"{name}-{character:02d}", int(split), list(255 * (1 - strokes))


FORMATS = {"webp": mosaics, "jpeg": photos, "ink": drawings}


def unpack(packed: Path, folder: Path, split: str, domain: str = "") -> int:
    """Write every image of every class as a PNG; returns their number. ``split`` is one of ``SPLITS`` or ``all``."""
    written = 0
    with np.load(packed) as file:
        classes = next(reader for key, reader in FORMATS.items() if key in file)(file)
        if split == "all":
            all_classes = list(classes)
            count = len(all_classes)
            splits = [min(2, max(0, 4 * index // count - 1)) if given is None else given for index, (_, given, _) in enumerate(all_classes)]
            classes = ((name, number, images) for number, (name, _, images) in zip(splits, all_classes, strict=True))
        for name, number, images in classes:
            target = folder / (SPLITS[number] if split == "all" else split) / (f"{domain}.{name}" if domain else name)
            target.mkdir(parents=True, exist_ok=True)
            for index, image in enumerate(images):
                Image.fromarray(image).save(target / f"{index:04d}.png")
            written += len(images)
    return written


def main() -> None:
    folder, *pairs = sys.argv[1:]
    for pair in pairs:
        destination, _, packed = pair.partition("=")
        domain, _, split = destination.rpartition(".")
        if split not in (*SPLITS, "all"):
            raise SystemExit(f"{pair}: expected <split>=<file> or <domain>.<split>=<file>, split one of {', '.join(SPLITS)}, all")
        print(f"{packed}: {unpack(Path(packed), Path(folder), split, domain)} images into {folder}")


if __name__ == "__main__":
    main()
