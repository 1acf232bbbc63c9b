"""Reads YAML that users write: plain values, every key once, no larger than it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fastsemi.common.errors import UserError

_MOST = 100_000  # values in a file, those that aliases repeat counted each time


class _Loader(yaml.SafeLoader):
    """PyYAML's, which takes the last of the values of a key, and any number of values that aliases repeat."""

    def __init__(self, text: str):
        super().__init__(text)
        self._sizes: dict[int, int] = {}  # values in each node that is whole

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _Refused(f"alias {event.anchor} stands inside of what it means", event.start_mark)
            return node
        inside = [] if node is None or isinstance(node, yaml.ScalarNode) else node.value
        parts = [part for entry in inside for part in (entry if isinstance(entry, tuple) else (entry,))]
        self._sizes[id(node)] = size = 1 + sum(self._sizes[id(part)] for part in parts)
        if size > _MOST:
            raise _Refused(f"with its aliases it holds more than {_MOST:,} values", event.start_mark)
        return node

    def compose_scalar_node(self, anchor: Any) -> yaml.ScalarNode:
        node = super().compose_scalar_node(anchor)
        if "\0" in node.value:  # which no file can be called
            raise _Refused("character 0 is in a text", node.start_mark)
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in lines:
                first = lines[key.tag, key.value] + 1
                raise _Refused(f"{key.value} is given twice, first in line {first}", key.start_mark)
            lines[key.tag, key.value] = key.start_mark.line
        return node


for _kind in ("set", "omap", "pairs", "binary"):  # which have no order, or are no text
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_undefined)  # type: ignore[type-var]


class _Refused(yaml.MarkedYAMLError):
    """Something in a file, and where."""

    def __init__(self, problem: str, mark: Any):
        super().__init__(problem=problem, problem_mark=mark)


def read_yaml(path: Path, what: str, missing: str) -> Any:
    """The content of a YAML file; None for one of comments alone.

    Args:
        path: The file.
        what: What to call it in errors.
        missing: Where such files are to be found.

    Raises:
        UserError: The file is missing, empty or no YAML, gives a key twice, or is of more values than fit.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise UserError(f"{what} {path} is empty; write it again")
        return yaml.load(text, _Loader)
    except FileNotFoundError:
        raise UserError(f"{what} {path} does not exist; {missing}") from None
    except RecursionError:
        raise UserError(f"{what} {path} cannot be read: it is nested too deeply") from None
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that is none
        raise UserError(f"{what} {path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """Why, without a line of the file, which may be any file."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{error.problem} (line {mark.line + 1}, column {mark.column + 1})"
    if isinstance(error, UnicodeDecodeError):
        return f"it is no UTF-8 text (byte {error.start}); write it as such"
    reason = error.strerror if isinstance(error, OSError) else None
    return reason or " ".join(str(error).split())
