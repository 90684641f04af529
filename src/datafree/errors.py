"""``UserError``, the exception for a user's mistake, what becomes one, and how a program exits on it."""

from __future__ import annotations

import errno
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # characters that change the direction of text
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}  # refusals of a write, which name no path


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
def refusals_in_one_line() -> Iterator[None]:
    """Turn what the system refuses at a path, or for lack of room on the disk, into a ``UserError``.

    Other errors of the system, such as a failed connection, and a closed pipe (``| head``) are no mistake of the user.

    Raises:
        UserError: a path that does not exist, is too long or may not be used; a full or failing disk.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        path = error.filename2 or error.filename
        if path is None and error.errno not in DISK:
            raise
        where = "" if path is None else f"{path}: "
        raise UserError(f"{where}{error.strerror or error}; check the path, its permissions and the room on the disk") from None


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
