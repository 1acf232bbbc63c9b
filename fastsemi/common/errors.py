"""The errors a user can cause, each one line: what is wrong, where, and the cure."""

from __future__ import annotations

import signal


class UserError(Exception):
    """Wrong input. The command line prints the message as one line and exits with code 2."""


class BadImageError(UserError):
    """An image file that cannot be read or decoded.

    Args:
        path: The file.
        reason: Why it failed, as the decoder said it.
    """

    def __init__(self, path: str, reason: str):
        self.path, self.reason = path, reason
        super().__init__(
            f"cannot decode image {path}: {reason}; remove or repair the file, "
            "or set data.max_bad to skip up to that many broken files"
        )


class Interrupted(BaseException):
    """A signal asked a run to stop; it can be resumed.

    No `Exception`: what takes those for failures lets it pass.

    Args:
        where: What was reached.
        number: The signal.
        alone: Whether other processes of the run may know nothing of it.
    """

    def __init__(self, where: str, number: int = signal.SIGINT, *, alone: bool = False):
        self.number, self.alone = number, alone
        super().__init__(where)

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal has ended."""
        return 128 + self.number
