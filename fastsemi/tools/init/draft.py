"""A configuration that is being written: its settings, why they are as they are, and its text."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from fastsemi.run.config import Config

WIDTH = 100  # of comments


class Draft:
    """Settings with comments.

    Args:
        settings: Nested, as `fastsemi.run.config.read_preset` reads them.
        head: What the file says first, a line each.
    """

    def __init__(self, settings: dict[str, Any], head: Sequence[str]):
        self.settings, self.head = settings, head
        self._notes: dict[str, str] = {}

    def get(self, key: str) -> Any:
        """The value of a dotted key, None where it is not set."""
        value: Any = self.settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    def set(self, key: str, value: Any, why: str = "") -> None:
        """Set a dotted key, and what the file says about it."""
        *sections, name = key.split(".")
        where = self.settings
        for section in sections:
            where = where.setdefault(section, {})
        where[name] = value
        if why:
            self._notes[key] = why

    def text(self) -> str:
        """YAML that `fastsemi.run.config.load` reads, in the order of the sections of `Config`."""
        order = [field.name for field in dataclasses.fields(Config)]
        ordered = {name: self.settings[name] for name in order if name in self.settings}
        return "\n".join([*(f"# {line}".rstrip() for line in self.head), *self._lines(ordered)]) + "\n"

    def _lines(self, tree: Mapping[str, Any], section: str = "") -> Iterator[str]:
        indent = "  " if section else ""
        for name, value in tree.items():
            key = f"{section}.{name}" if section else name
            if key in self._notes:
                yield from (f"{indent}# {line}" for line in textwrap.wrap(self._notes[key], WIDTH))
            if isinstance(value, dict) and not section:
                yield f"{name}:"
                yield from self._lines(value, name)
            else:
                yield f"{indent}{name}: {_flow(value)}"


def _flow(value: Any) -> str:
    """A value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")
