"""Configuration keys of earlier versions and their present names."""

from __future__ import annotations

from collections.abc import Sequence

# By the old dotted key; `*` stands for any one name.
RENAMED = {
    "inversion.companions": "inversion.auxiliary_teachers",
    "inversion.loss.companions": "inversion.loss.auxiliary_teachers",
    "meta.arms.*.pool": "meta.arms.*.images_per_class",
    "nas.algorithms.*.screened": "nas.algorithms.*.prefilter",
    "nas.algorithms.*.kept": "nas.algorithms.*.prefilter_share",
    "nas.algorithms.*.score": "nas.algorithms.*.proxy",
}


def present_name(dotted: str) -> str:
    """The name that a key of an earlier version has now; empty for any other key."""
    parts = dotted.split(".")
    for old, new in RENAMED.items():
        if matches(old.split("."), parts):
            return ".".join(part if name == "*" else name for name, part in zip(new.split("."), parts, strict=True))
    return ""


def matches(pattern: list[str], parts: Sequence[str]) -> bool:
    """Whether the parts of a dotted key fit a pattern in which `*` stands for any one part."""
    return len(pattern) == len(parts) and all(p in ("*", part) for p, part in zip(pattern, parts, strict=True))
