"""What a check says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fastsemi.common.errors import UserError

State = Literal["ok", "note", "problem"]


@dataclass(frozen=True)
class Check:
    """What was found of one part."""

    name: str
    state: State
    """ok; note: something optional is missing or slower than it could be; problem: a required part fails."""
    found: str
    cure: str = ""
    """What to do about a note or a problem."""


def examine(name: str, check: Callable[[], Check]) -> Check:
    """The result of a check; what it raises is a problem with the cure that the message names."""
    try:
        return check()
    except UserError as error:
        return problem(name, str(error))
    except Exception as error:  # a broken installation raises anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Check(name, "problem", reason, "reinstall it: pip install --force-reinstall fastsemi")


def problem(name: str, message: str) -> Check:
    """A problem from an error's line, whose last part is the cure."""
    found, _, cure = message.rpartition("; ")
    return Check(name, "problem", found or cure, cure if found else "correct the setting")
