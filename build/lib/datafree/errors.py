"""The one exception that stands for a user's mistake rather than ours."""


class UserError(Exception):
    """A mistake the user can mend; its message is one line: what was expected, what came, what to change.

    The command line prints the message without a traceback and exits with status 2.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # what came may hold line breaks
