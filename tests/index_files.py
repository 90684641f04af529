"""Writing indexes of results for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from datafree import artifacts
from datafree.workflow import indexes


def write_index(path: str | Path, files: Mapping[str, Sequence[str]], root: Path = Path()) -> str:
    """Write an index of files by teacher; all paths are relative to ``root``. Returns the path of the index."""
    rows = [(name, {file: artifacts.sha256(root / file) for file in paths}) for name, paths in files.items()]
    artifacts.write_json(root / path, indexes.content(rows))
    return str(path)
