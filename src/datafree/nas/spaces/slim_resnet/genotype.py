"""Genotypes of slim ResNets: the width and depth of each of three stages, and their encoding as a string."""

from __future__ import annotations

import re

from datafree.errors import UserError

Genotype = tuple[str, ...]  # for each stage its width, then its depth

STAGES = 3
WIDTHS = ("w0.5", "w0.75", "w1")  # of the stage's full width
_STAGE = re.compile(r"(w[0-9.]+)(d[0-9]+)")


def depths(cells: int) -> tuple[str, ...]:
    """The depth options of a stage: 1 to ``cells`` blocks."""
    return tuple(f"d{number}" for number in range(1, cells + 1))


def full_width(width: int, stage: int) -> int:
    return width * 2**stage


def channels(width: int, stage: int, option: str) -> int:
    """The channels of a stage with the given width option."""
    return max(1, round(float(option[1:]) * full_width(width, stage)))


def encode(genotype: Genotype) -> str:
    """Width and depth of every stage, joined by hyphens: ``w0.5d1-w1d2-w0.75d1``."""
    return "-".join(width + depth for width, depth in zip(genotype[::2], genotype[1::2], strict=True))


def decode(text: str, cells: int) -> Genotype:
    """The options of a string from ``encode``.

    Raises:
        UserError: another form, or a width or depth that a stage does not have.
    """
    options: list[str] = []
    for part in text.split("-"):
        match = _STAGE.fullmatch(part)
        if match is None or match[1] not in WIDTHS or match[2] not in depths(cells):
            allowed = f"one of {', '.join(WIDTHS)} with one of {', '.join(depths(cells))}"
            raise UserError(f"genotype: got the stage {part!r} in {text!r}; allowed: {allowed}, such as w0.5d1")
        options += match.groups()
    if len(options) != 2 * STAGES:
        raise UserError(f"genotype: expected {STAGES} stages joined by hyphens, such as w0.5d1-w1d1-w1d1, got {text!r}")
    return tuple(options)
