"""What is wrong with a value of the configuration, in the user's words instead of the parser's."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastsemi.common.schedule import Duration

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"')
_VALUE = re.compile(
    r"(?:Got|Given) value: (?P<value>.*)$|Not of type \w+: (?P<named>.*?) is no \w+;", re.MULTILINE
)
# What a key must be, by its type.
_KINDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a word",
    Path: "a path",
    Duration: "a number and a unit, such as 5 epochs or 1000 steps",
    dict: "indented keys and values",
    type(None): "null",
}


def explain(error: BaseException, hint_of: Callable[[str], Any]) -> str:
    """One line: the key, its value and what it must be; where the parser gives no key, its own last words.

    Args:
        error: What the parser raised.
        hint_of: The type of a dotted key; KeyError where there is none.
    """
    text = str(error)
    lines = [line.strip(" -") for line in text.splitlines() if line.strip(" -")]
    found = next(iter(reversed([*_KEY.finditer(text)])), None)  # the innermost of sections
    value = next(iter(reversed([*_VALUE.finditer(text)])), None)
    try:
        hint = hint_of(found["key"]) if found else None
    except KeyError:
        hint = None
    if found and hint is not None and (wanted := _wanted(hint)):
        given = next(group for group in value.groups() if group is not None) if value else ""
        shown = f"{found['key']} is {given.strip()}; it" if value else found["key"]
        return f"{shown} must be {wanted}"
    return "; ".join(lines) if lines else type(error).__name__


def _wanted(hint: Any) -> str | None:
    """What values a type has, in words; None where there are no words for it."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (typing.Union, types.UnionType):
        parts = [_wanted(argument) for argument in arguments]
        return None if None in parts else " or ".join(part for part in parts if part)
    if origin is tuple and arguments:
        one = _wanted(arguments[0])
        count = "" if Ellipsis in arguments else f" of {len(arguments)}"
        return one and f"a list{count}, each {one}"
    if dataclasses.is_dataclass(hint):
        return _KINDS[dict]
    return _KINDS.get(origin or hint)
