"""Predictions as a file: CSV, JSON lines or Parquet, by its ending."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.common.files import csv_safe, replacing
from fastsemi.loaders.sources.parquet import require_pyarrow

Row = tuple[str, Sequence[tuple[str, float]]]
"""Path, and its likeliest classes with their confidence, the likeliest first."""
_Write = Callable[[Sequence[Row]], None]


def require_file(path: Path, form: str | None = None) -> str:
    """The format of a file of predictions; refuses one that cannot be written, before any is made.

    Args:
        path: The file.
        form: csv, jsonl or parquet; by default as its ending says.

    Raises:
        UserError: Its ending is of no format, pyarrow is missing, or its folder is.
    """
    form = form or path.suffix.lower()[1:]
    if form not in _FORMATS:
        raise UserError(f"{path} does not end in .{', .'.join(_FORMATS)}; the ending tells the format")
    if form == "parquet":
        require_pyarrow()
    if path.is_dir():
        raise UserError(f"{path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"the folder {path.parent} of {path.name} does not exist; make it")
    return form


def write_predictions(batches: Iterable[Sequence[Row]], path: Path, form: str, top: int) -> int:
    """Write predictions; a former file is replaced when all are written, and kept if an error comes first.

    The columns are `path`, `class`, `confidence`, then `class_2`, `confidence_2` and so on for `top` above 1.
    In a CSV confidences have four decimals, and a name that a spreadsheet would take for a formula begins
    with an apostrophe.

    Args:
        batches: Rows with `top` classes each.
        path: The file.
        form: From `require_file`.
        top: Classes a row.

    Returns:
        How many rows.
    """
    count = 0
    columns = ["path", "class", "confidence"]
    columns += [f"{name}_{place}" for place in range(2, top + 1) for name in ("class", "confidence")]
    with _FORMATS[form](path, columns) as write:
        for rows in batches:
            write(rows)
            count += len(rows)
    return count


@contextmanager
def _csv(path: Path, columns: Sequence[str]) -> Iterator[_Write]:
    with replacing(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(columns)

        def write(rows: Sequence[Row]) -> None:
            for name, classes in rows:
                cells = (cell for label, o in classes for cell in (csv_safe(label), f"{o:.4f}"))
                writer.writerow((csv_safe(name), *cells))

        yield write


@contextmanager
def _jsonl(path: Path, columns: Sequence[str]) -> Iterator[_Write]:
    with replacing(path) as file:

        def write(rows: Sequence[Row]) -> None:
            for row in rows:
                file.write(json.dumps(dict(zip(columns, _flat(row), strict=True))) + "\n")

        yield write


@contextmanager
def _parquet(path: Path, columns: Sequence[str]) -> Iterator[_Write]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(c, pa.float32() if c.startswith("confidence") else pa.string()) for c in columns])
    with replacing(path, "wb") as file, pq.ParquetWriter(file, schema) as writer:

        def write(rows: Sequence[Row]) -> None:
            flat = [[_text(cell) for cell in _flat(row)] for row in rows]
            values = [dict(zip(columns, row, strict=True)) for row in flat]
            writer.write_table(pa.Table.from_pylist(values, schema=schema))

        yield write


def _flat(row: Row) -> list[str | float]:
    name, classes = row
    return [name, *(cell for pair in classes for cell in pair)]


def _text(cell: str | float) -> str | float:
    """A name as Parquet can hold it: bytes that are no UTF-8 are written out."""
    return cell.encode("utf-8", "backslashreplace").decode() if isinstance(cell, str) else cell


_FORMATS: dict[str, Callable[[Path, Sequence[str]], Any]] = {
    "csv": _csv,
    "jsonl": _jsonl,
    "parquet": _parquet,
}
