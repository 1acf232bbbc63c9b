"""The dotted keys of a configuration: which there are, which are given, and what is wrong with others."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import yaml

from fastsemi.common.errors import UserError


@functools.cache
def _fields(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {f.name: hints[f.name] for f in dataclasses.fields(kind)}


def _is_section(hint: Any) -> bool:
    return dataclasses.is_dataclass(hint)


def keys_of(kind: type, prefix: str = "") -> list[str]:
    """All dotted keys below a dataclass, sections included."""
    keys = []
    for name, hint in _fields(kind).items():
        keys.append(prefix + name)
        if _is_section(hint):
            keys += keys_of(hint, f"{prefix}{name}.")
    return keys


def hint_of(kind: type, key: str) -> Any:
    """The type of a dotted key below a dataclass; KeyError where there is none."""
    found: Any = kind
    for part in key.split("."):
        if not _is_section(found):
            raise KeyError(key)
        found = _fields(found)[part]
    return found


def no_such_key(kind: type, key: str, where: str) -> UserError:
    """What is wrong with a key that a dataclass has not, with the nearest one."""
    keys = keys_of(kind)
    near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
    leaf = key.rsplit(".", 1)[-1]
    near = near or [k for k in keys if k.rsplit(".", 1)[-1] == leaf]
    hint = f"did you mean {near[0]}?" if near else "--help-all lists all keys"
    return UserError(f"unknown key {key} in {where}; {hint}")


def check_keys(kind: type, content: dict[str, Any], where: str) -> None:
    """Refuse keys that a dataclass has not, and values that are no section where one belongs.

    Args:
        kind: The dataclass.
        content: Nested values.
        where: What they come from, for messages.

    Raises:
        UserError: Names the first.
    """
    _check_section(kind, kind, content, where, "")


def _check_section(whole: type, kind: type, content: dict[str, Any], where: str, prefix: str) -> None:
    fields = _fields(kind)
    for key, value in content.items():
        if key not in fields:
            raise no_such_key(whole, f"{prefix}{key}", where)
        if value is None and type(None) not in typing.get_args(fields[key]):
            raise UserError(f"{prefix}{key} in {where} is null; give it a value or leave it out")
        if _is_section(fields[key]):
            if not isinstance(value, dict):
                raise UserError(
                    f"{prefix}{key} in {where} is a section; give it indented keys, not {value!r}"
                )
            _check_section(whole, fields[key], value, where, f"{prefix}{key}.")
        elif isinstance(value, dict):
            _check_words(value, f"{prefix}{key}", where)


def _check_words(content: dict[Any, Any], name: str, where: str) -> None:
    """Refuse keys that are no words where any word may be one."""
    for key, value in content.items():
        if not isinstance(key, str):
            raise UserError(f"key {key!r} of {name} in {where} is no word; give words, in quotes if need be")
        if isinstance(value, dict):
            _check_words(value, f"{name}.{key}", where)


def check_options(kind: type, options: Sequence[str]) -> None:
    """Refuse options of the command line that a dataclass has not.

    Raises:
        UserError: Names the first.
    """
    known = set(keys_of(kind))
    for key, _ in _options(options):
        if key not in known and not key.startswith("model.args."):
            raise no_such_key(kind, key, "the command line")


def _options(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """The keys that the command line gives, with their values."""
    for option, after in zip(overrides, [*overrides, ""][1:], strict=True):
        if option.startswith("--"):
            key, equals, value = option[2:].partition("=")
            yield key, value if equals else after


def given_options(overrides: Sequence[str]) -> set[str]:
    """The dotted keys that the command line gives, in sections too: `--semi.mix '{mixup: 0}'`."""
    keys = set()
    for key, value in _options(overrides):
        keys.add(key)
        with suppress(yaml.YAMLError, ValueError):
            content = yaml.safe_load(value)
            keys |= {*given_keys(content, f"{key}.")} if isinstance(content, dict) else set()
    return keys


def given_keys(content: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys that nested values give."""
    for key, value in content.items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from given_keys(value, f"{prefix}{key}.")
