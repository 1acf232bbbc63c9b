"""Tables of images: CSV, TSV, JSON lines or Parquet with a column of paths and a column of labels.

Hugging Face's `metadata.csv` and `metadata.jsonl` of an image folder are such tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.table_rows import read_header, read_rows

Part = Literal["train", "val", "unlabeled"]

TABLES = (".csv", ".tsv", ".jsonl", ".parquet")
PATHS = (
    "path",
    "file",
    "filename",
    "file_name",
    "filepath",
    "file_path",
    "image",
    "image_path",
    "image_name",
    "image_id",
)
LABELS = ("label", "class", "category", "target", "class_name")
SPLIT = "split"
POSITIONS = "Index"  # of the lists of the paper's authors, which name images by their place
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("unlabeled", "unlabelled"), "unlabeled"),
}


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are called."""

    path: str
    label: str | None
    split: str | None

    def __str__(self) -> str:
        label = f", labels from {self.label}" if self.label else ""
        return f"paths from column {self.path}{label}{', parts from split' if self.split else ''}"


class Row(NamedTuple):
    """One image of a table."""

    line: int  # in the file, from 1; of Parquet the row
    path: str
    label: str  # "" for none
    split: str  # "" where the table has no such column


@dataclass(frozen=True)
class Table:
    """A table that was read."""

    file: Path
    columns: Columns
    rows: list[Row]

    def where(self, line: int) -> str:
        """A line of the table, for messages."""
        return f"{self.file}, {_line_word(self.file)} {line}"


def is_table_name(path: str | Path) -> bool:
    """Whether a file of this name may be a table of images."""
    return Path(path).suffix.lower() in TABLES


def has_columns(file: Path, *, labels: bool = True) -> bool:
    """Whether a file is a table with paths, and with labels where `labels`; the authors' CSV is none.

    Raises:
        UserError: Columns that could each be the one.
    """
    if not is_table_name(file) or not file.is_file():
        return False
    try:
        names = read_header(file, _is_known)
    except UserError:  # whatever reads it for good says what is wrong
        return False
    if POSITIONS in names:
        return False
    columns = _columns(file, names)
    return columns is not None and (columns.label is not None or not labels)


def read_columns(file: Path) -> Columns:
    """The columns of a table.

    Raises:
        UserError: The file cannot be read, has no column of paths, or several that could be it.
    """
    names = read_header(file, _is_known)
    columns = _columns(file, names)
    if columns is None:
        shown = ", ".join(name[:40] for name in names[:8]) + (", ..." if len(names) > 8 else "")
        raise UserError(
            f"table {file} has no column of paths (its first line: {shown}); name columns path and "
            "label there"
        )
    return columns


def require_labels(file: Path) -> Columns:
    """The columns of a table that is to have labels.

    Raises:
        UserError: As `read_columns`, or there are none.
    """
    columns = read_columns(file)
    if columns.label is None:
        raise UserError(f"table {file} has no column of labels; call one of its columns label")
    return columns


def read_table(file: Path) -> Table:
    """All rows of a table, in its order.

    Raises:
        UserError: As `read_columns`, or a row that is not as the others, has no path or another split than
            train, val, test and unlabeled.
    """
    columns = read_columns(file)
    table = Table(file, columns, [])
    wanted = [name for name in (columns.path, columns.label, columns.split) if name is not None]
    for line, values in read_rows(file, wanted, _is_known):
        fields = dict(zip(wanted, values, strict=True))
        path = fields[columns.path]
        if not path:
            raise UserError(f"{table.where(line)}: no path in column {columns.path}; give one, or remove it")
        if "\0" in path:
            raise UserError(f"{table.where(line)}: the path holds a zero byte; correct it")
        split = ""
        if columns.split is not None:
            split = _SPLITS.get(fields[columns.split].lower(), "")
            if not split:
                raise UserError(
                    f"{table.where(line)}: split {fields[columns.split]!r} is unknown; give train, val, "
                    "test or unlabeled"
                )
        table.rows.append(Row(line, path, fields[columns.label] if columns.label else "", split))
    if not table.rows:
        raise UserError(f"table {file} names no image; give it a row for each")
    return table


def rows_of(table: Table, part: Part | None) -> list[Row]:
    """The rows of one part; all of them where the table has no column `split`.

    Those to train on are those without label too, the evaluation images those of `val`, else of `test`.

    Raises:
        UserError: No such rows, or a table with parts of which none is asked for.
    """
    if table.columns.split is None:
        return table.rows
    if part is None:
        raise UserError(
            f"table {table.file} has a column split; say whose rows are meant: {', '.join(get_args(Part))}"
        )
    there = {row.split for row in table.rows}
    val = "val" if "val" in there else "test"
    splits = {"train": ("train", "unlabeled"), "val": (val,), "unlabeled": ("unlabeled",)}[part]
    rows = [row for row in table.rows if row.split in splits]
    if not rows:
        raise UserError(
            f"table {table.file} has no rows of split {' or '.join(splits)}, only of "
            f"{', '.join(sorted(there))}; correct its column split"
        )
    return rows


def _line_word(file: Path) -> str:
    return "row" if file.suffix.lower() == ".parquet" else "line"


def _known(name: str) -> str:
    return name.strip().lower().replace(" ", "_").replace("-", "_")


def _is_known(name: str) -> bool:
    return name == POSITIONS or _known(name) in PATHS


def _columns(file: Path, names: Sequence[str]) -> Columns | None:
    path = _one_of(file, names, PATHS, "paths")
    if path is None:
        return None
    split = next((name for name in names if _known(name) == SPLIT), None)
    return Columns(path, _one_of(file, names, LABELS, "labels"), split)


def _one_of(file: Path, names: Sequence[str], known: Sequence[str], what: str) -> str | None:
    """The column with one of some names; that with the first of them where there are several."""
    found = [name for name in names if _known(name) in known]
    chosen = [name for name in found if _known(name) == known[0]] or found
    if len(chosen) > 1:
        raise UserError(
            f"columns {' and '.join(chosen)} of table {file} may each be the {what}; call the right one "
            f"{known[0]}, and it alone"
        )
    return chosen[0] if chosen else None
