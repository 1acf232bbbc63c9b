"""How a run takes the labels of a table that `suggest` wrote."""

from __future__ import annotations

import os
from pathlib import Path

from fastsemi.loaders.index.table import has_columns, read_columns
from fastsemi.loaders.settings import DataConfig
from fastsemi.loaders.sources.open import is_table


def names_all(data: DataConfig) -> bool:
    """Whether the table names all images of a run, to be `data.train`, and not just those with a label.

    As `data.labels.file` it labels images of the folder `data.train`, and all others there have no label. So
    unlabelled images elsewhere could not be named, and images that a table keeps apart would be let in.
    """
    if data.unlabeled is not None or is_table(data.root / data.train):
        return True
    file = data.labels.file
    return file is not None and has_columns(file) and read_columns(file).split is not None


def options(data: DataConfig, table: Path) -> list[str]:
    """The options of a run on the same images, with the labels of the table.

    Args:
        data: What the table was made of.
        table: Its path.
    """
    how = ["file", str(table)]
    if names_all(data):
        how = ["fraction", "1.0"]
    found = [f"--data.labels.{how[0]}", how[1]]
    for name in ("fraction", "per_class", "file"):
        if name != how[0] and getattr(data.labels, name) is not None:
            found += [f"--data.labels.{name}", "null"]
    if names_all(data):
        found += ["--data.train", os.path.abspath(table)]
        if data.unlabeled is not None:
            found += ["--data.unlabeled", "null"]
    return found
