"""Import of optional dependencies, the extras of this package."""

from __future__ import annotations

import importlib
from types import ModuleType

from datafree.errors import UserError


def import_extra(module: str, extra: str, what: str) -> ModuleType:
    """Import ``module``, which the optional ``extra`` of this package installs; ``what`` begins the error message.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise UserError(f"{what}: needs the package {module}; install it with `pip install 'datafree[{extra}]'`") from None
