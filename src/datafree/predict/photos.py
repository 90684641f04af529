"""The images that a command is given: files, folders, paths or an image on standard input; read in batches, in parallel."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from datafree.data.decoding import read_image
from datafree.data.layout import unlabelled_files
from datafree.errors import UserError
from datafree.progress import progress

BATCH = 250  # images that are decoded and classified together
MOST_BYTES = 256 * 2**20  # of an image on standard input
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class Source:
    """An image to read: its name in the results, and its path or the content of its file."""

    name: str
    content: Path | bytes


def find(arguments: Sequence[str], standard_input: BinaryIO) -> list[Source]:
    """The images of a command's arguments: files, all images in folders, and for ``-`` those of standard input.

    Standard input is one image, or text with a path in each line.

    Raises:
        UserError: a folder without images, or standard input without an image or a path.
    """
    sources = []
    for argument in arguments:
        sources += _of_standard_input(standard_input) if argument == STANDARD_INPUT else _of_path(Path(argument))
    return sources


def _of_path(path: Path) -> list[Source]:
    files = unlabelled_files(path) if _exists(path.is_dir) else [path]
    return [Source(os.fsencode(file).decode("utf-8", "backslashreplace"), file) for file in files]


def _exists(test: Callable[[], bool]) -> bool:
    """Whether a test of a path holds; not for a path that the system refuses."""
    try:
        return test()
    except OSError:
        return False


def _of_standard_input(stream: BinaryIO) -> list[Source]:
    content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"standard input: expected at most {MOST_BYTES} bytes; got more")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        return [Source("standard input", content)]
    paths = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not paths:
        raise UserError("standard input: expected an image, or a path in each line; got nothing")
    return [source for path in paths for source in _of_path(Path(path))]


def batches(sources: Sequence[Source], image_size: int, threads: int) -> Iterator[tuple[list[str], torch.Tensor, list[str]]]:
    """The names of at most ``BATCH`` images, the images uint8 [N, 3, S, S], and a line for each file that cannot be read.

    N may be 0. The files of the next batch are decoded while one is in use. Shows progress.
    """
    with ThreadPoolExecutor(threads) as pool:
        waiting = [pool.map(lambda source: _read(source, image_size), part) for part in itertools.islice(_parts(sources), 2)]
        rest = itertools.islice(_parts(sources), 2, None)
        for part in progress(_parts(sources), -(-len(sources) // BATCH), "classifying"):
            read = list(waiting.pop(0))
            waiting += [pool.map(lambda source: _read(source, image_size), coming) for coming in itertools.islice(rest, 1)]
            images = [image for image in read if not isinstance(image, str)]
            names = [source.name for source, image in zip(part, read, strict=True) if not isinstance(image, str)]
            stacked = torch.stack(images) if images else torch.empty(0, 3, image_size, image_size, dtype=torch.uint8)
            yield names, stacked, [image for image in read if isinstance(image, str)]


def _parts(sources: Sequence[Source]) -> Iterable[Sequence[Source]]:
    return (sources[first : first + BATCH] for first in range(0, len(sources), BATCH))


def _read(source: Source, image_size: int) -> torch.Tensor | str:
    if isinstance(source.content, Path) and not _exists(source.content.is_file):
        return str(UserError(f"{source.name}: no such file; expected an image or a folder of images"))
    try:
        return read_image(source.content, image_size, source.name)
    except UserError as error:
        return str(error)
