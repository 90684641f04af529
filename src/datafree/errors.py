"""``UserError``, the exception for a user's mistake, and how a program exits on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the user can correct; its message is one line: what was expected, what was given, what to change.

    A program prints the message without a traceback and exits with status 2; see ``exit_on_user_error``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # the given value may contain line breaks


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """Exit ``program`` on a ``UserError``: one line on standard error, exit status 2.

    Raises:
        SystemExit: the body raised a UserError.
    """
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
