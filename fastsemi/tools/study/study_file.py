"""A study file: which cells a table has, what each of them changes, and the paper's numbers for them."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.common.yaml_file import read_yaml
from fastsemi.run.config import Config, load

QUANTITIES = ("finetune", "student", "teacher")
SKIP = "skip"  # in place of a dotted key: the stage that a cell leaves out
KEYS = ("title", "presets", "axes", "where", "paper", "note")

Number = float | str  # the paper prints a cross for a training that failed


@dataclass(frozen=True)
class Preset:
    """What the cells of one group start from."""

    name: str
    files: tuple[Path, ...]
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """One entry of the table, for any seed.

    Attributes:
        preset: Name of the preset.
        values: The value of each axis, in the order of `Study.axes`.
        config: Its configuration; seeds are set by `with_seed`.
        paper: The paper's numbers by preset of the paper, then by quantity.
    """

    preset: str
    values: tuple[str, ...]
    config: Config
    paper: Mapping[str, Mapping[str, Number]]

    @property
    def name(self) -> str:
        """The preset and the values in one line."""
        return ", ".join((self.preset, *self.values))

    def with_seed(self, seed: int) -> Config:
        """Its configuration for a seed, which draws the labels too."""
        labels = dataclasses.replace(self.config.data.labels, seed=seed)
        data = dataclasses.replace(self.config.data, labels=labels)
        return dataclasses.replace(self.config, seed=seed, data=data)


@dataclass(frozen=True)
class Study:
    """A table as a grid."""

    name: str
    title: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    note: str


def load_study(
    file: Path, *, configs: Sequence[Path] = (), overrides: Sequence[str] = (), only: Sequence[str] = ()
) -> Study:
    """Read a study file.

    Args:
        file: YAML with `title`, `presets`, `axes`, and optionally `where`, `paper` and `note`, as
            docs/studies/README.md describes them.
        configs: Presets that take the place of the file's own, to run its axes on other data; a later one
            wins.
        overrides: Dotted command-line options for all cells; what the axes set wins over them.
        only: Axes of which just some values are run, each as `AXIS=VALUE,VALUE`.

    Raises:
        UserError: The file or one of its cells is wrong.
    """
    content = _read(file)
    presets = _presets(content["presets"], file)
    axes = {str(name): _values(name, values, file) for name, values in content["axes"].items()}
    rules = _rules(content.get("where") or [], ("preset", *axes), file)
    paper = content.get("paper") or {}
    _check_paper(paper, set(presets) if not configs else None, axes, file)
    if configs:
        stem = configs[-1].stem
        presets = {stem: Preset(stem, tuple(configs), {})}
    chosen = _choose(only, axes, file)
    cells = []
    for preset in presets.values():
        for values in itertools.product(*chosen.values()):
            known = _paper_numbers(paper, preset.name, values)
            if known is None:
                continue
            settings = dict(preset.settings)
            for axis, value in zip(chosen, values, strict=True):
                settings |= axes[axis][value]
            settings |= _conditions(rules, preset.name, dict(zip(axes, values, strict=True)))
            config = _config(preset, settings, overrides, f"{file}, cell {', '.join((preset.name, *values))}")
            cells.append(Cell(preset.name, values, config, known))
    name = "_".join([file.stem, *(path.stem for path in configs[-1:])])
    return Study(
        name, str(content.get("title", file.stem)), tuple(axes), tuple(cells), str(content.get("note", ""))
    )


def _read(file: Path) -> dict[str, Any]:
    content = read_yaml(file, "study", "those of the paper are in configs/studies/")
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) and content[key] for key in ("presets", "axes")
    ):
        raise UserError(f"study {file} needs the sections presets and axes; see configs/studies/table3.yaml")
    for key in content:
        if key not in KEYS:
            raise UserError(f"unknown key {key} in study {file}; it has {', '.join(KEYS)}")
    return content


def _presets(section: dict[Any, Any], file: Path) -> dict[str, Preset]:
    presets = {}
    for name, value in section.items():
        entry = {"base": value} if isinstance(value, str) else value
        if (
            not isinstance(entry, dict)
            or not isinstance(entry.get("base"), str)
            or entry.keys() - {"base", "set"}
        ):
            raise UserError(
                f"preset {name} in {file} is {value!r}; give a file, or base: a file and set: keys"
            )
        presets[str(name)] = Preset(str(name), (file.parent / entry["base"],), dict(entry.get("set") or {}))
    return presets


def _values(axis: str, section: Any, file: Path) -> dict[str, dict[str, Any]]:
    """The settings of each value: given one by one, or as one key with a list of its values."""
    if (
        isinstance(section, dict)
        and section.keys() == {"key", "values"}
        and isinstance(section["values"], list)
    ):
        return {str(value): {section["key"]: value} for value in section["values"]}
    if isinstance(section, dict) and section and all(isinstance(v, dict) for v in section.values()):
        return {str(name): dict(settings) for name, settings in section.items()}
    raise UserError(
        f"axis {axis} in {file} must hold key: and values:, or for each of its values the dotted keys it sets"
    )


def _choose(
    only: Sequence[str], axes: Mapping[str, Mapping[str, Any]], file: Path
) -> dict[str, tuple[str, ...]]:
    chosen = {axis: tuple(values) for axis, values in axes.items()}
    for choice in only:
        axis, _, wanted = choice.partition("=")
        if axis not in axes:
            raise UserError(f"--only {choice} names no axis of {file}; it has {', '.join(axes)}")
        values = tuple(wanted.split(","))
        for value in values:
            if value not in axes[axis]:
                raise UserError(f"{axis} has no value {value!r} in {file}; it has {', '.join(axes[axis])}")
        chosen[axis] = tuple(value for value in axes[axis] if value in values)
    return chosen


def _rules(rules: Any, names: Sequence[str], file: Path) -> list[dict[str, Any]]:
    if not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise UserError(f"section where of {file} must be a list of mappings")
    for rule in rules:
        unknown = rule.keys() - {*names, "set"}
        if unknown or not isinstance(rule.get("set"), dict):
            raise UserError(f"rule {rule} in {file} must hold set: and values of some of {', '.join(names)}")
    return rules


def _conditions(rules: list[Any], preset: str, values: Mapping[str, str]) -> dict[str, Any]:
    """What the rules for some combinations set: a rule holds where all that it names agrees."""
    settings: dict[str, Any] = {}
    for rule in rules:
        wanted = {str(key): value for key, value in rule.items() if key != "set"}
        names = {"preset": preset, **values}
        if all(names[key] in [str(v) for v in _listed(value)] for key, value in wanted.items()):
            settings |= rule["set"]
    return settings


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _config(preset: Preset, settings: Mapping[str, Any], overrides: Sequence[str], where: str) -> Config:
    options = list(overrides)
    for key, value in settings.items():
        if key != SKIP:
            options += [f"--{key}", value if isinstance(value, str) else json.dumps(value)]
    try:
        config = load(preset.files, options)
        stages = tuple(stage for stage in config.stages if stage != settings.get(SKIP))
        return dataclasses.replace(config, stages=stages)
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


def _leaf(tree: Any, values: Sequence[str]) -> tuple[bool, Any]:
    """Whether the nested paper section reaches a cell, and what it says there."""
    for value in values:
        if not isinstance(tree, dict) or value not in (names := {str(key): key for key in tree}):
            return False, None
        tree = tree[names[value]]
    return True, tree


def _paper_numbers(
    paper: Mapping[str, Any], preset: str, values: Sequence[str]
) -> dict[str, dict[str, Number]] | None:
    """The paper's numbers for a cell; None where it leaves the cell out.

    A preset of the paper has its own numbers; any other is shown beside those of all presets.
    """
    names = [preset] if preset in paper else list(paper)
    numbers = {}
    for name in names:
        found, leaf = _leaf(paper[name], values)
        if found and leaf is None and name == preset:
            return None
        if found and leaf is not None:
            numbers[str(name)] = dict(leaf) if isinstance(leaf, dict) else {"teacher": leaf}
    return numbers


def _check_paper(
    paper: Any, presets: set[str] | None, axes: Mapping[str, Mapping[str, Any]], file: Path
) -> None:
    """Refuse numbers for cells that do not exist, such as a misspelled value."""

    def check(tree: Any, levels: Sequence[tuple[str, Any]], where: str) -> None:
        if not levels:
            wrong = isinstance(tree, dict) and set(tree) - set(QUANTITIES)
            if wrong:
                raise UserError(
                    f"{where} has numbers for {sorted(wrong)}; it may have {', '.join(QUANTITIES)}"
                )
            return
        (axis, known), *rest = levels
        if not isinstance(tree, dict):
            raise UserError(f"{where} must hold the values of {axis}")
        for key, below in tree.items():
            if known is not None and str(key) not in known:
                raise UserError(f"{where} has no {axis} {key!r}; known are {', '.join(known)}")
            check(below, rest, f"{where}, {key}")

    check(paper, [("presets", presets), *axes.items()], f"section paper of {file}")
