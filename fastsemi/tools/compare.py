"""Runs side by side: the settings that differ, and what came of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table
from scipy.stats import binomtest

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.telling import tell
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import digest
from fastsemi.run.config import Config, known_keys, load, plain
from fastsemi.run.folder import RunFolder
from fastsemi.run.selected import selection_notes
from fastsemi.run.summary import best_baseline, networks, read_summary
from fastsemi.run.trained import trained_run
from fastsemi.training.evaluate import class_logits
from fastsemi.training.outcomes import outcomes

NOT_COMPARED = ("output",)


@dataclass(frozen=True)
class Compared:
    """A run among others."""

    path: Path
    config: Config
    summary: dict[str, Any]
    images: str | None
    """Fingerprint of the evaluation images and their classes, None where they are not here."""


@dataclass(frozen=True)
class Paired:
    """Two networks on the same images."""

    only_first: int
    """Images that the first alone has right."""
    only_second: int
    images: int

    @property
    def points(self) -> float:
        """How much higher the second one's top-1 is."""
        return 100 * (self.only_second - self.only_first) / self.images

    @property
    def p(self) -> float:
        """Of McNemar's exact test: how likely so unequal counts are if neither is better."""
        differing = self.only_first + self.only_second
        return float(binomtest(self.only_first, differing).pvalue) if differing else 1.0


def open_runs(paths: Sequence[Path]) -> list[Compared]:
    """Read what runs were made with, and what came of them.

    Raises:
        UserError: A folder holds no run, or its files are damaged.
    """
    runs = []
    for path in paths:
        config = load([RunFolder(path).config], ["--output", str(path)])
        runs.append(Compared(path, config, read_summary(RunFolder(path).summary), _images(config)))
    return runs


def _images(config: Config) -> str | None:
    if not config.data.evaluates:
        return None
    data = Data(config.data, config.loader)
    try:
        return digest([data.val], labels=True)
    except UserError:  # moved since
        return None
    finally:
        data.close()


def settings(runs: Sequence[Compared]) -> dict[str, list[str]]:
    """The keys whose values differ, with the value of each run."""
    trees = [plain(run.config) for run in runs]
    found = {}
    for key in known_keys():
        values = [_value(tree, key) for tree in trees]
        section = any(isinstance(value, dict) for value in values) and key != "model.args"
        if not section and key not in NOT_COMPARED and any(value != values[0] for value in values):
            found[key] = [_shown(value) for value in values]
    return found


def _value(tree: Any, key: str) -> Any:
    for part in key.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _shown(value: Any) -> str:
    if value is None or value == "" or isinstance(value, bool):
        return json.dumps(value)  # as YAML has it
    return str(value)


def figures(run: Compared) -> dict[str, str]:
    """What came of a run, by name; what it has not is left out."""
    summary = run.summary
    found = {"labels": f"{summary['labelled']:,}"} if "labelled" in summary else {}
    if simple := best_baseline(summary):
        found["best simple classifier, top-1 %"] = f"{simple['top1']:.1f} ({simple['classifier']})"
    for stage, entry in summary["stages"].items():
        for network in networks(entry):
            for kind, name in (("top1", "top-1 %"), ("balanced", "balanced %")):
                value = entry.get(f"{network}_{kind}".lstrip("_"))
                if value is not None:
                    found[f"{stage} {network}".strip() + f", {name}"] = f"{value:.1f}"
        if chosen := entry.get("chosen"):
            found[f"{stage} chosen, top-1 %"] = f"{chosen['top1']:.1f} ({chosen['network']})"
            found[f"{stage} chosen, balanced %"] = f"{chosen['balanced']:.1f}"
        found[f"{stage}, seconds"] = f"{entry['seconds']:.0f}"
        found[f"{stage}, images/s"] = f"{entry['images_per_s']:,.0f}"
    return found


def rows(runs: Sequence[Compared]) -> tuple[list[list[str]], list[list[str]]]:
    """Lines of a table, a name and a value of each run: settings that differ, and figures."""
    of_each = [figures(run) for run in runs]
    names = dict.fromkeys(name for found in sorted(of_each, key=len, reverse=True) for name in found)
    return (
        [[key, *values] for key, values in settings(runs).items()],
        [[name, *(found.get(name, "-") for found in of_each)] for name in names],
    )


def table(runs: Sequence[Compared]) -> Table:
    """Settings that differ above figures, a column a run."""
    found = Table()
    found.add_column("", overflow="fold")
    for run in runs:
        found.add_column(escape(str(run.path)), overflow="fold", justify="right")
    differing, of_each = rows(runs)
    for line in differing:
        found.add_row(*map(escape, line))
    found.add_section()
    for line in of_each:
        found.add_row(*map(escape, line))
    return found


def write_csv(runs: Sequence[Compared], path: Path) -> None:
    """Write the lines of the table."""
    differing, of_each = rows(runs)
    with replacing(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        csv.writer(file).writerows([["", *(str(run.path) for run in runs)], *differing, *of_each])


def notes(runs: Sequence[Compared]) -> Iterator[str]:
    """What a reader must know of the figures before comparing them."""
    if not settings(runs):
        yield "the settings are the same"
    first, *others = runs
    for run in runs:
        if run.images is None and run.config.data.evaluates:
            yield f"{run.path}: its evaluation images are not here, so whether they are the same is unknown"
    if first.images:
        for run in others:
            if run.images and run.images != first.images:
                yield f"{run.path} was evaluated on other images than {first.path}: accuracies do not compare"
        if all(run.images == first.images for run in others):
            yield "all were evaluated on the same images, by their names and classes"
    for run in runs:
        yield from (f"{run.path}: {note}" for note in selection_notes(run.summary))


def paired(runs: Sequence[Compared]) -> Iterator[tuple[Compared, Paired]]:
    """Each run against the first, by what their networks make of the same evaluation images.

    Raises:
        UserError: Evaluation images that differ or are not here, or no trained network.
    """
    first, *others = runs
    for run in runs:
        if run.images is None or run.images != first.images:
            why = "are not here" if run.images is None else f"differ from those of {first.path}"
            raise UserError(
                f"--paired needs the same evaluation images, and those of {run.path} {why}; leave it out"
            )
    of_first = _right(first)
    for run in others:
        of_run = _right(run)
        both = sorted(of_first.keys() & of_run.keys())
        a, b = (np.array([right[i] for i in both]) for right in (of_first, of_run))
        yield run, Paired(int((a & ~b).sum()), int((b & ~a).sum()), len(both))


def _right(run: Compared) -> dict[int, bool]:
    """Whether the network of a run has each evaluation image right."""
    tell(f"{run.path}: looking at the evaluation images")
    with trained_run(run.config) as here:
        batch, images = run.config.eval_batch, here.data.val
        said = class_logits(here.model, here.data, here.views, here.precision, batch=batch, images=images)
    assert said is not None  # in the one process that there is
    found = outcomes(said)
    return dict(zip(found.ids.tolist(), found.right.tolist(), strict=True))
