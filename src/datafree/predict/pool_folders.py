"""Recovered pools as folders of PNG files, which other programs read."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from datafree import artifacts
from datafree.data.images import class_sheet
from datafree.errors import UserError
from datafree.tasks.pools import Pool

SHEET_COLUMNS = 16
LONGEST = 80  # bytes of a class name in a folder name


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside ``path``, renamed to it if the block succeeds and removed if it does not.

    Raises:
        UserError: there is something at ``path``, or the system refuses to write.
    """
    if path.exists():
        raise UserError(f"--output: {path} exists; choose another folder, or remove it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        try:
            yield part
            part.chmod(0o755)
            part.rename(path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        raise UserError(f"--output: cannot write {path} ({error.strerror}); choose another place, or make room") from None


def write_pool(folder: Path, pool: Pool) -> None:
    """Write a pool: <class>/<number>.png, sheet.png, and soft_labels.csv with the label and the probabilities of each image."""
    names = [folder_name(number, name) for number, name in enumerate(pool.classes)]
    rows = []
    for number, (image, label, soft) in enumerate(zip(pool.images, pool.labels.tolist(), pool.soft_labels.float().tolist(), strict=True)):
        file = f"{names[label]}/{number:05}.png"
        (folder / names[label]).mkdir(parents=True, exist_ok=True)
        values = image.permute(1, 2, 0).numpy()
        Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(folder / file)
        rows.append([file, pool.classes[label], *soft])
    artifacts.write_image(folder / "sheet.png", class_sheet(pool.images, pool.labels, SHEET_COLUMNS))
    artifacts.write_table(folder / "soft_labels.csv", ["file", "label", *pool.classes], rows)


def folder_name(number: int, name: str) -> str:
    """A folder's name for class ``number``, valid on every system: the number, and the letters and digits of the class name."""
    letters = "".join(character if character.isalnum() else "_" for character in name)
    return f"{number:03}-{letters.encode()[:LONGEST].decode(errors='ignore')}"
