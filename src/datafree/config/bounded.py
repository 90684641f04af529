"""Reading YAML of unknown origin with bounds: on the file, on nesting, and on the values that its aliases stand for."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import yaml

from datafree.errors import UserError

MAX_BYTES = 16 * 2**20  # of a file
MAX_DEPTH = 50  # mappings and lists within each other
MAX_CHARACTERS = 10_000  # of one value; Python needs quadratic time for numbers such as 1:30:00 of many digits
MAX_VALUES = 50_000  # in a tree, counting every use of a YAML alias


def read_yaml(path: str | Path, setting: str) -> Any:
    """The content of a YAML file, whose aliases are shared objects; ``setting`` is what names the file, for messages.

    Raises:
        UserError: no regular file, too large, not YAML, nested too deeply, or a value that is too long.
    """
    path = Path(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # reading a device may never end, and reading a pipe may wait forever
            raise UserError(f"{setting}: cannot read {path}: not a file")
        if status.st_size > MAX_BYTES:
            raise UserError(f"{path}: {status.st_size} bytes; allowed: at most {MAX_BYTES}")
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{setting}: cannot read {path}: {error.strerror}") from None
    except Exception as error:  # PyYAML also raises others, such as ValueError for the date 2020-13-45
        raise UserError(f"{path}: not valid YAML: {error}") from None


def check_bounded(tree: Any, where: str = "") -> None:
    """Refuse a tree that is too large or too deep to be copied or merged, or that other programs would change.

    Takes time in proportion to the values without the repetitions by aliases. ``where`` begins every message, followed by the dotted key.

    Raises:
        UserError: a collection that contains itself, too many values or levels, a key that is no text, or ``${``, with which other
            programs insert environment variables.
    """
    try:
        _size(tree, "", 0, {}, set())
    except UserError as error:
        raise UserError(f"{where}: {error}" if where else str(error)) from None


def _size(value: Any, dotted: str, depth: int, known: dict[int, int], open_: set[int]) -> int:
    """The number of values in ``value``; ``known`` has those of finished collections by identity, ``open_`` has the collections around."""
    if isinstance(value, str) and "${" in value:
        raise UserError(f"{dotted}: got {value[:80]!r}; `${{` is not allowed here, remove it")
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in open_:
        raise UserError(f"{dotted}: a YAML alias stands for a collection that contains itself; write the values out")
    if id(value) in known:
        return known[id(value)]
    if depth == MAX_DEPTH:
        raise UserError(f"{dotted}: more than {MAX_DEPTH} levels; allowed: at most {MAX_DEPTH}")
    open_.add(id(value))
    total = 1
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(value, dict) and not isinstance(key, str):
            raise UserError(f"{dotted or 'configuration'}: got the key {str(key)[:80]}; expected text, write it in quotes")
        if isinstance(inner, str) and "${" not in inner:
            total += 1
        else:
            total += _size(inner, f"{dotted}.{key}"[-200:] if dotted else str(key)[:200], depth + 1, known, open_)
        if total > MAX_VALUES:
            raise UserError(f"{dotted or 'configuration'}: more than {MAX_VALUES} values; write fewer, or fewer YAML aliases")
    open_.remove(id(value))
    known[id(value)] = total
    return total


_FASTEST: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_FASTEST):
    """PyYAML's safe loader, in C where there is one, with bounds.

    PyYAML calls these methods for every node, and itself recursively: without a bound on the depth, the C version ends the process.
    """

    depth = 0
    merged = 0  # pairs that `<<` inserted

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        self.depth += 1
        if self.depth > 2 * MAX_DEPTH:  # the rest is for `check_bounded`, which names the key
            raise yaml.YAMLError(f"more than {2 * MAX_DEPTH} levels")

    def ascend_resolver(self) -> None:
        self.depth -= 1

    def construct_scalar(self, node: Any) -> Any:
        if len(node.value) > MAX_CHARACTERS:
            raise yaml.YAMLError(f"a value of {len(node.value)} characters; allowed: at most {MAX_CHARACTERS}")
        return super().construct_scalar(node)

    def flatten_mapping(self, node: Any) -> None:
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for part in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self.merged += len(part.value)
                if self.merged > MAX_VALUES:
                    raise yaml.YAMLError(f"`<<` inserts more than {MAX_VALUES} values; write fewer")
        super().flatten_mapping(node)
