"""Plain trees, as YAML and command lines give them, as typed dataclasses. Errors name the dotted key, the value and what is allowed."""

from __future__ import annotations

import dataclasses
import datetime
import difflib
import functools
import typing
from enum import Enum
from types import NoneType
from typing import Any

from datafree.config.renamed import present_name
from datafree.errors import UserError

LARGEST = 2**63 - 1  # integer
TRUE, FALSE = ("true", "yes", "y", "on", "1"), ("false", "no", "n", "off", "0")


def coerce(kind: type, tree: Any, dotted: str = "", *, complete: bool = False) -> Any:
    """The dataclass ``kind`` of a mapping; ``dotted`` is the mapping's own key, for messages.

    Texts become numbers and truth values, because a command line gives every value as text; numbers become texts, because YAML reads the
    class name 7 as a number. Keys that are not in the tree have their defaults, in an inner mapping those of the field that holds it; with
    ``complete`` they are errors.

    Raises:
        UserError: an unknown or renamed key, a value of the wrong type, or, with ``complete``, a missing key.
    """
    return kind(**_values(kind, tree, dotted, complete))


def _values(kind: type, tree: Any, dotted: str, complete: bool) -> dict[str, Any]:
    """The values of the tree by field."""
    if not isinstance(tree, dict):
        raise UserError(f"{dotted or 'configuration'}: expected a mapping, got {short(tree)}")
    hints, values = type_hints(kind), {}
    for key, value in tree.items():
        here = f"{dotted}.{key}"[:200] if dotted else str(key)[:200]
        if key not in hints:
            raise UserError(f"{here}: {_unknown(here, str(key), hints)}")
        inner = _dataclass_of(hints[key])
        if inner and value is not None:
            default, changed = _default(kind, key), _values(inner, value, here, complete)
            values[key] = inner(**changed) if default is None else dataclasses.replace(default, **changed)
        else:
            values[key] = _value(hints[key], value, here)
    if complete and (missing := [key for key in hints if key not in values]):
        here = f"{dotted}.{missing[0]}" if dotted else missing[0]
        raise UserError(f"{kind.__name__}: the key `{here}` is missing, because another version wrote these settings; rerun snakemake")
    return values


@functools.cache
def type_hints(kind: type) -> dict[str, Any]:
    """The evaluated types of a dataclass's fields, by name."""
    return typing.get_type_hints(kind)


def short(value: Any) -> str:
    """The value in at most 80 characters, or only the type of a collection, which may be large."""
    if isinstance(value, (dict, list)):
        return f"a {type(value).__name__}"
    try:
        return repr(value)[:80]
    except ValueError:  # Python does not write integers of more than 4300 digits
        return "an integer of too many digits"


def _unknown(here: str, key: str, hints: dict[str, Any]) -> str:
    if renamed := present_name(here):
        return f"this key was renamed; write {renamed}"
    near = difflib.get_close_matches(key[:80], hints, n=1)
    return f"unknown key; did you mean `{near[0]}`?" if near else f"unknown key; allowed: {', '.join(hints)}"


def _default(kind: type, key: str) -> Any:
    """A new default value of a field that holds a dataclass; None if it has none."""
    made = _fields(kind)[key].default_factory
    return None if made is dataclasses.MISSING else made()


@functools.cache
def _fields(kind: Any) -> dict[str, dataclasses.Field]:
    return {field.name: field for field in dataclasses.fields(kind)}


@functools.cache
def _dataclass_of(hint: Any) -> Any:
    """The dataclass of a type hint, optional or not; None for any other type."""
    return next((option for option in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(option)), None)


def _value(kind: Any, value: Any, here: str) -> Any:
    if kind is Any:
        return value
    options = typing.get_args(kind) if NoneType in typing.get_args(kind) else (kind,)
    if value is None:
        if NoneType in options:
            return None
        raise UserError(f"{here}: got null; expected {_kind_name(kind)}")
    kind = next(option for option in options if option is not NoneType)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        if not isinstance(value, list):
            raise UserError(f"{here}: expected a list, got {short(value)}")
        if inner[0] is str and all(type(entry) is str for entry in value):  # most values of a manifest are class names
            return list(value)
        return [_value(inner[0], entry, f"{here}.{index}") for index, entry in enumerate(value)]
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise UserError(f"{here}: expected a mapping from names, got {short(value)}")
        return {key: _value(inner[1], entry, f"{here}.{key}") for key, entry in value.items()}
    try:
        if kind is int and type(value) is int and abs(value) > LARGEST:
            raise OverflowError
        return value if type(value) is kind else _scalar(kind, value)
    except (ValueError, KeyError):
        raise UserError(f"{here}: got {short(value)}; expected {_kind_name(kind)}") from None
    except OverflowError:
        raise UserError(f"{here}: got {short(value)}; this number is too large") from None


def _scalar(kind: Any, value: Any) -> Any:
    """A value of another type as ``kind``; a ValueError, KeyError or OverflowError if that is not possible without loss."""
    if issubclass(kind, Enum):
        return kind(value)
    if kind is str and isinstance(value, (int, float, datetime.date)):
        return str(value)
    if kind is bool and isinstance(value, (int, str)):
        text = str(value).lower()
        return {**dict.fromkeys(TRUE, True), **dict.fromkeys(FALSE, False)}[text]
    if kind in (int, float) and (isinstance(value, str) or (kind is float and type(value) is int)):
        return kind(value)
    raise ValueError


def _kind_name(kind: Any) -> str:
    """What a setting of this type is, for messages."""
    if dataclasses.is_dataclass(kind) or typing.get_origin(kind) is dict:
        return "a mapping"
    if typing.get_origin(kind) is list:
        return "a list"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(member.value for member in kind)}"
    return {int: "an integer", float: "a number", bool: "true or false", str: "text"}[kind]
