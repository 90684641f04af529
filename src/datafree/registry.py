"""Registries of methods: names to objects of modules that are imported when they are looked up, and which modules were looked up.

So the static imports of a stage hold no method, and the code of a job is that of its stage and of the methods that it looked up: an edited
method concerns only the jobs that use it. This module does not import PyTorch.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import TypeVar

from datafree.errors import UserError

T = TypeVar("T")
_noted: list[set[str]] = []  # one set per block of ``noted_modules`` that is running


class Registry(Mapping[str, T]):
    """A read-only mapping from names to objects of modules that are imported when they are looked up.

    Names, length, ``in`` and ``targets`` import nothing; ``values()`` and ``items()`` look up everything.
    """

    def __init__(self, targets: Mapping[str, str]) -> None:
        """``targets`` maps each name to ``package.module:attribute``."""
        self.targets: Mapping[str, str] = MappingProxyType(dict(targets))

    def __getitem__(self, name: str) -> T:
        """Import the module of ``name``, note it for ``noted_modules``, and return its attribute.

        Raises:
            KeyError: unknown name.
            UserError: the module has no such attribute.
        """
        module, _, attribute = self.targets[name].partition(":")
        imported = importlib.import_module(module)
        for modules in _noted:
            modules.add(module)
        if not hasattr(imported, attribute):
            raise UserError(f"{name}: {module} has no `{attribute}`; define it there, or correct the registered {self.targets[name]!r}")
        return getattr(imported, attribute)

    def __contains__(self, name: object) -> bool:
        return name in self.targets

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        return len(self.targets)

    def __repr__(self) -> str:
        return f"Registry({dict(self.targets)})"


@contextmanager
def noted_modules() -> Iterator[set[str]]:
    """The set of module names, such as ``datafree.inversion.pixels``, of all look-ups in registries inside the block.

    The set grows during the block. Repeated look-ups count too. Blocks may be nested; they must be used by one thread only.
    """
    modules: set[str] = set()
    _noted.append(modules)
    try:
        yield modules
    finally:
        _noted.pop()
