"""A part of a work that several jobs share without knowing one another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.errors import UserError


@dataclass(frozen=True)
class Job:
    """Job `number` of `count`, counted from 1."""

    number: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> Job:
        """The job that `3/8` means.

        Raises:
            UserError: No such pair, or a number beyond it.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise UserError(f"--job is {text}; give NUMBER/COUNT, from 1/COUNT to COUNT/COUNT, as 3/8")
        return cls(int(found[1]), int(found[2]))

    def share(self, total: int) -> slice:
        """Which of `total` things are this job's: those of all jobs in a row are all of them in order."""
        return slice(total * (self.number - 1) // self.count, total * self.number // self.count)

    def file(self, path: Path) -> Path:
        """The file that this job writes in the place of `path`; by name they are in the order of the jobs."""
        if self.count == 1:
            return path
        number = f"{self.number:0{len(str(self.count))}}"
        return path.with_name(f"{path.stem}-{number}-of-{self.count}{path.suffix}")


WHOLE = Job()
