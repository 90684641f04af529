"""Unpack image sets that come as one lossless mosaic per class into the folder layout of `data.folder`.

    python benchmarks/unpack_mosaics.py FOLDER train=cifarfs_train_a.npz train=cifarfs_train_b.npz \\
        validation=cifarfs_val.npz test=cifarfs_test.npz

Each file holds `webp` uint8 [bytes], `offset` int64 [classes + 1] and `class_name`: one picture of 32x32 tiles per class, row by row,
with `file_name` [classes, images] giving the number of images. Writes FOLDER/<split>/<class>/<number>.png.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

TILE = 32


def unpack(packed: Path, folder: Path) -> int:
    """Write every tile of every class as a PNG; returns how many."""
    with np.load(packed) as file:
        mosaics, offset, names, count = file["webp"], file["offset"], file["class_name"], file["file_name"].shape[1]
    for name, start, end in zip(names, offset[:-1], offset[1:], strict=True):
        mosaic = np.asarray(Image.open(io.BytesIO(mosaics[start:end].tobytes())).convert("RGB"))
        rows, columns = mosaic.shape[0] // TILE, mosaic.shape[1] // TILE
        tiles = mosaic.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2).reshape(-1, TILE, TILE, 3)
        (folder / str(name)).mkdir(parents=True, exist_ok=True)
        for number, tile in enumerate(tiles[:count]):
            Image.fromarray(tile).save(folder / str(name) / f"{number:04d}.png")
    return len(names) * count


def main() -> None:
    folder, *pairs = sys.argv[1:]
    for pair in pairs:
        split, _, packed = pair.partition("=")
        print(f"{packed}: {unpack(Path(packed), Path(folder) / split)} images into {Path(folder) / split}")


if __name__ == "__main__":
    main()
