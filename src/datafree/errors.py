"""``UserError``, the exception for a user's mistake, and how a program exits on it."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that change the direction of text


class UserError(Exception):
    """A mistake that the user can correct; its message is one line: what was expected, what was given, what to change.

    A program prints the message without a traceback and exits with status 2; see ``exit_on_user_error``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(" ".join(message.split())))  # the given value may contain line breaks


def printable(text: str) -> str:
    """A text of strangers without what acts on a terminal or cannot be encoded: control characters, changes of direction, surrogates."""
    return "".join("?" if unicodedata.category(letter) in ("Cc", "Cs") or letter in DIRECTIONS else letter for letter in text)


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
