"""The one exception that stands for a user's mistake rather than ours, and how a program ends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake the user can mend; its message is one line: what was expected, what came, what to change.

    A program prints the message without a traceback and exits with status 2; see ``told_in_one_line``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # what came may hold line breaks


@contextmanager
def told_in_one_line(program: str) -> Iterator[None]:
    """Ends ``program`` on a user's mistake: one line on standard error, exit status 2.

    Raises:
        SystemExit: the body raised a UserError.
    """
    try:
        yield
    except UserError as error:
        print(f"{program}: {error}", file=sys.stderr)
        sys.exit(2)
