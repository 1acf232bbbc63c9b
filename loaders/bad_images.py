"""Broken files: how many a run may meet, and which it met."""

from __future__ import annotations

import logging
import sys

from fastsemi.common.errors import BadImageError

logger = logging.getLogger(__name__)


class BadImages:
    """Counts broken files, up to a limit.

    Args:
        limit: How many different files may be broken; 0 raises on the first.
    """

    def __init__(self, limit: int = 0):
        self.limit = limit
        self.paths: set[str] = set()

    def record(self, error: BadImageError) -> None:
        """Count a broken file once and log it. A file that is refused is not counted.

        Raises:
            BadImageError: More files are broken than the limit allows.
        """
        if self.limit == 0:
            raise error
        count = len(self.paths | {error.path})
        if count > self.limit:
            raise BadImageError(
                error.path, f"{error.reason} (broken file {count}, data.max_bad is {self.limit})"
            )
        if error.path in self.paths:
            return
        self.paths.add(error.path)
        logger.warning("skipped broken image %d of at most %d: %s", len(self.paths), self.limit, error)


class Unreadable(BadImages):
    """Takes note of broken files, however many, for one who names them at the end."""

    def __init__(self) -> None:
        super().__init__(sys.maxsize)
        self.first: BadImageError | None = None

    def record(self, error: BadImageError) -> None:
        """Note a broken file."""
        self.first = self.first or error
        self.paths.add(error.path)
