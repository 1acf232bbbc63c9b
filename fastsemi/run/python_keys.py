"""Configurations as Python gives them: presets, mappings, and keys that are nested or dotted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.run.config import Config, by_hand, load, plain
from fastsemi.run.config_keys import given_keys

_ARGUMENT = "model.args."  # one argument of timm alone, as the command line takes it

StrPath = str | os.PathLike[str]
Source = StrPath | Sequence[StrPath] | Mapping[str, Any] | Config
"""A configuration: a preset or several, of which a later one wins; a mapping with the keys of one, where
`base` names a preset, from the working directory, or several; or a configuration that is resolved already."""


def from_python(source: Source, keys: Mapping[str, Any]) -> Config:
    """The configuration that a call means.

    Args:
        source: What to start from.
        keys: Win over `source`; nested or dotted.

    Raises:
        UserError: It is nothing that names a configuration; as `load`.
    """
    files, tree = _unpacked(source, keys)
    arguments = {key: value for key, value in keys.items() if key.startswith(_ARGUMENT)}
    options = [word for key, value in arguments.items() for word in (f"--{key}", json.dumps(plain(value)))]
    return load([source] if isinstance(source, Config) else files, options, tree)


def given_by_hand(source: Source, keys: Mapping[str, Any]) -> set[str] | None:
    """The dotted keys that a call gives itself, not in the bases of presets; None for all of a `Config`.

    Arguments as of `from_python`.
    """
    if isinstance(source, Config):
        return None
    files, tree = _unpacked(source, keys)
    return by_hand([] if isinstance(source, Mapping) else files, []) | {*given_keys(tree)}


def _unpacked(source: Source, keys: Mapping[str, Any]) -> tuple[list[Path], dict[str, Any]]:
    """The presets of a call, and the keys that it lays over them, nested."""
    tree: dict[str, Any] = {}
    presets: Any = source
    if isinstance(source, Config):
        presets = []
    elif isinstance(source, Mapping):
        presets = [] if source.get("base") is None else source["base"]
        _lay({key: value for key, value in source.items() if key != "base"}, tree)
    _lay({key: value for key, value in keys.items() if not key.startswith(_ARGUMENT)}, tree)
    presets = [presets] if isinstance(presets, str | os.PathLike) else presets
    if not isinstance(presets, Sequence) or not all(isinstance(one, str | os.PathLike) for one in presets):
        raise UserError(
            f"{presets!r} is no configuration; give the path of a preset, several, a mapping "
            "of keys or a Config"
        )
    return [Path(path) for path in presets], tree


def _lay(keys: Mapping[str, Any], over: dict[str, Any], prefix: str = "") -> None:
    """Lay keys over nested ones, in place."""
    for key, value in keys.items():
        if not isinstance(key, str):
            raise UserError(f"{prefix}{key!r} is no key; keys are texts such as 'semi.threshold'")
        *above, name = key.split(".")
        into = over
        for part in above:
            into = into.setdefault(part, {})
            if not isinstance(into, dict):
                raise UserError(f"{prefix}{key} is given, and {prefix}{part} is no section but {into!r}")
        kept = into.get(name)
        if isinstance(value, Mapping) and name != "args":
            if not isinstance(kept, dict):
                kept = into[name] = {}
            _lay(value, kept, f"{prefix}{key}.")
        else:
            into[name] = plain(value)
