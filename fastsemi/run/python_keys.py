"""Configurations as Python gives them: presets, mappings, and keys that are nested or dotted."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.run.config import Config, by_hand, given_keys, load, plain

_ARGUMENT = "model.args."  # one argument of timm alone, as the command line takes it


Source = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | Config


def from_python(source: Source, keys: Mapping[str, Any]) -> Config:
    """The configuration that a call means.

    Args:
        source: A preset or several, of which a later one wins; a mapping with the keys of one, `base`
            included, which is relative to the working directory; or a configuration.
        keys: Win over `source`; nested or dotted.

    Raises:
        UserError: As `load`.
    """
    files: list[Path] = []
    tree: dict[str, Any] = {}
    if isinstance(source, Config):
        tree = plain(source)
    elif isinstance(source, Mapping):
        given = dict(source)
        if (base := given.pop("base", None)) is not None:
            files = _presets(base)
        _lay(given, tree)
    else:
        files = _presets(source)
    arguments = {key: value for key, value in keys.items() if key.startswith(_ARGUMENT)}
    _lay({key: value for key, value in keys.items() if key not in arguments}, tree)
    options = [word for key, value in arguments.items() for word in (f"--{key}", json.dumps(plain(value)))]
    return load(files, options, tree)


def given_by_hand(source: Source, keys: Mapping[str, Any]) -> set[str] | None:
    """The dotted keys that a call gives itself, not in the bases of presets; None for all of a `Config`.

    Arguments as of `from_python`.
    """
    if isinstance(source, Config):
        return None
    tree: dict[str, Any] = {}
    files: list[Path] = []
    if isinstance(source, Mapping):
        _lay({key: value for key, value in source.items() if key != "base"}, tree)
    else:
        files = _presets(source)
    _lay({key: value for key, value in keys.items() if not key.startswith(_ARGUMENT)}, tree)
    return by_hand(files, []) | {*given_keys(tree)}


def _presets(named: Any) -> list[Path]:
    """The file that is named, or all that are."""
    paths = [named] if isinstance(named, str | os.PathLike) else named
    if not isinstance(paths, Sequence) or not all(isinstance(path, str | os.PathLike) for path in paths):
        raise UserError(f"{named!r} is no configuration; give the path of a preset, or a mapping of keys")
    return [Path(path) for path in paths]


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
