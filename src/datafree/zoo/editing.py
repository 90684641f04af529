"""``datafree zoo add``: append a teacher to a manifest and leave its other lines unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from datafree import artifacts
from datafree.errors import UserError
from datafree.zoo.manifest import Entry, read_manifest


def add_entry(manifest: Path, spec: dict[str, Any]) -> Entry:
    """Append the teacher ``spec`` (keys as in a manifest) to the list ``teachers``; creates the manifest if it does not exist.

    Comments, order and layout of the existing text are kept. The file is replaced, atomically, only if the new one can be read and
    differs from the old one in this teacher alone.

    Raises:
        UserError: an invalid entry, or a list that is written in brackets.
    """
    old = manifest.read_bytes().decode("utf-8") if manifest.is_file() else ""
    before = read_manifest(manifest) if old else []
    text = _append(manifest, old, spec) if old else "teachers:\n" + _item(spec, 2, "\n")
    with artifacts.atomic(manifest) as part:
        part.write_bytes(text.encode("utf-8"))
        try:
            after = read_manifest(part)
        except UserError as error:
            raise UserError(str(error).replace(str(part), str(manifest))) from None
        if after[:-1] != before or after[-1].name != spec.get("name"):
            raise UserError(f"{manifest}: cannot append to this layout without changing other teachers; add the entry by hand")
    return after[-1]


def _append(manifest: Path, text: str, spec: dict[str, Any]) -> str:
    root = yaml.compose(text, yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # read_manifest has read it
    teachers = next(value for key, value in root.value if key.value == "teachers")
    if teachers.flow_style:
        raise UserError(f"{manifest}: `teachers` is a list in brackets; write each teacher as a separate item that begins with `- `")
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.splitlines(keepends=True)
    end = len(lines) if teachers.end_mark.index == len(text) else teachers.end_mark.line
    # YAML ends the list where the next node begins: comments and empty lines before that belong to the next node.
    while not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#"):
        end -= 1
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += newline
    lines.insert(end, _item(spec, teachers.start_mark.column, newline))
    return "".join(lines)


def _item(spec: dict[str, Any], indent: int, newline: str) -> str:
    """The entry as a YAML list item; each list or mapping within it is on one line."""
    block = yaml.safe_dump([spec], default_flow_style=None, sort_keys=False, allow_unicode=True, width=10**6)
    return "".join(f"{' ' * indent}{line}{newline}" for line in block.splitlines())
