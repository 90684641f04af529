"""Importing packages that only some zoos need."""

from __future__ import annotations

import importlib
from types import ModuleType

from datafree.errors import UserError


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """The module of an optional extra of this package; ``what`` names what asked for it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{what}: needs the package {module}; install it with `pip install datafree[{extra}]`") from None
