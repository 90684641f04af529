"""Renaming the tensors of a foreign checkpoint: the ``keys`` of a manifest.

A rule maps a pattern to a replacement. A pattern matches the beginning of a name, in whole parts between dots: ``linear`` matches
``linear.weight`` but not ``linear2.weight``. ``{}`` matches any one part; the matched parts are inserted in order into the
replacement. The empty pattern matches every name. If several patterns match, the one with the most parts applies, then the one whose
literal part comes first. The rest of the name is kept. A replacement of null drops the tensor. There are no regular expressions: the
time is linear in names times rules.

``{classifier: head, "": backbone}`` turns ``classifier.weight`` into ``head.weight`` and ``blocks.0.norm.bias`` into
``backbone.blocks.0.norm.bias``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import NoneType

from datafree.errors import UserError

MAX_RULES = 100
WILDCARD = "{}"
Rules = Mapping[str, str | None]


def check(rules: Rules) -> None:
    """Refuse malformed rules.

    Raises:
        UserError: no mapping, too many rules, an empty part, a brace outside ``{}``, or another number of ``{}`` in the replacement
            than in the pattern.
    """
    if not isinstance(rules, Mapping) or not all(
        isinstance(pattern, str) and isinstance(replacement, (str, NoneType)) for pattern, replacement in rules.items()
    ):
        raise UserError("expected a mapping from names to names or null")
    if len(rules) > MAX_RULES:
        raise UserError(f"{len(rules)} rules; allowed: at most {MAX_RULES}")
    for pattern, replacement in rules.items():
        for text in (pattern, replacement or ""):
            if text and any(not part or (part != WILDCARD and set(part) & set("{}")) for part in text.split(".")):
                raise UserError(f"got {text!r}; expected names joined by single dots, of which any may be {{}}, such as layers.{{}}.norm")
        if replacement is not None and _parts(pattern).count(WILDCARD) != _parts(replacement).count(WILDCARD):
            raise UserError(f"{pattern!r}: got {replacement!r}; expected as many {{}} as in the pattern")


def rename(names: Iterable[str], rules: Rules) -> dict[str, str]:
    """The new name of each old name, for rules that ``check`` accepts; dropped names are missing, names without a matching rule stay.

    Raises:
        UserError: two tensors would get the same name.
    """
    order = sorted(((_parts(pattern), replacement) for pattern, replacement in rules.items()), key=lambda rule: _precedence(rule[0]))
    renamed: dict[str, str] = {}
    taken: dict[str, str] = {}
    for name in names:
        new = _rename(name, order)
        if new is None:
            continue
        if new in taken:
            raise UserError(f"keys: `{taken[new]}` and `{name}` would both be renamed to `{new}`; change the rules")
        taken[new] = name
        renamed[name] = new
    return renamed


def _rename(name: str, order: list[tuple[list[str], str | None]]) -> str | None:
    parts = name.split(".")
    for pattern, replacement in order:
        if len(pattern) <= len(parts) and all(wanted in (WILDCARD, part) for wanted, part in zip(pattern, parts, strict=False)):
            if replacement is None:
                return None
            matched = iter(part for wanted, part in zip(pattern, parts, strict=False) if wanted == WILDCARD)
            start = [next(matched) if part == WILDCARD else part for part in _parts(replacement)]
            return ".".join(start + parts[len(pattern) :])
    return name


def _parts(text: str) -> list[str]:
    return text.split(".") if text else []


def _precedence(pattern: list[str]) -> tuple[int, list[bool]]:
    return -len(pattern), [part == WILDCARD for part in pattern]
