"""Times of the clock as people write them."""

from __future__ import annotations

import math
import re

from fastsemi.common.errors import UserError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_PART = r"\s*(\d+(?:\.\d+)?)\s*(s|sec|secs|seconds?|m|mins?|minutes?|h|hours?|d|days?)\b"


def read_seconds(text: str) -> float:
    """Seconds of a time such as `90 s`, `10 minutes`, `2 h` or `1 h 30 min`.

    Raises:
        UserError: Another form, or no time at all.
    """
    text = re.sub(r"(?<=[a-z])(?=\d)", " ", text.strip().lower())  # 1h30m
    seconds = 0.0
    if re.fullmatch(f"(?:{_PART})+", text):
        seconds = sum(float(number) * _UNITS[unit[0]] for number, unit in re.findall(_PART, text))
    if not 0 < seconds < math.inf:
        raise UserError(
            f"{text!r} is no time; write numbers with units, in quotes: '90 s', '10 minutes', '2 h' or "
            "'1 h 30 min'"
        )
    return seconds


def duration(seconds: float) -> str:
    """A time in the two largest units that it has."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
