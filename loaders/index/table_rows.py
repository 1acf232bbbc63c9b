"""Reads the rows of CSV, TSV, JSON lines and Parquet as text, with the lines where they stand."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.class_label import class_label

_SEPARATORS = (",", ";", "\t", "|")


def read_header(file: Path, is_known: Callable[[str], bool]) -> list[str]:
    """The names of the columns of a table.

    Args:
        file: By its ending a Parquet file, JSON lines or text.
        is_known: Whether a name is one that is looked for, by which the separator of a text is known.

    Raises:
        UserError: The file cannot be read.
    """
    return _header(file, is_known)[0]


def _header(file: Path, is_known: Callable[[str], bool]) -> tuple[list[str], str]:
    """Names of columns, and what separates them in a text file."""
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        return _parquet_columns(file), ""
    if suffix == ".jsonl":
        return list(dict.fromkeys(chain.from_iterable(row for _, row in _json_rows(file)))), ""
    lines = iter(_text(file).splitlines(keepends=True))
    line = next((line for line in lines if line.strip()), "")
    options = [("\t",)] if suffix == ".tsv" else [(separator,) for separator in _SEPARATORS]
    read = [([field.strip() for field in _first_row(line, *one)], one[0]) for one in options]
    for names, separator in read:
        if any(map(is_known, names)):
            return names, separator
    return max(read, key=lambda one: len(one[0]))


def _first_row(line: str, separator: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=separator), [])
    except csv.Error:
        return [line]


def read_rows(
    file: Path, wanted: Sequence[str], is_known: Callable[[str], bool]
) -> Iterator[tuple[int, list[str]]]:
    """Each row of a table: its line, and the text of some columns, "" where there is none.

    Args:
        file: As of `read_header`.
        wanted: The columns.
        is_known: As of `read_header`.

    Raises:
        UserError: The file cannot be read, or a row is not as the others.
    """
    suffix = file.suffix.lower()
    if suffix == ".parquet":
        yield from _parquet_rows(file, wanted)
    elif suffix == ".jsonl":
        for line, row in _json_rows(file):
            yield line, [_as_text(row.get(name), f"{file}, line {line}, {name}") for name in wanted]
    else:
        yield from _text_rows(file, wanted, is_known)


def _text_rows(
    file: Path, wanted: Sequence[str], is_known: Callable[[str], bool]
) -> Iterator[tuple[int, list[str]]]:
    names, separator = _header(file, is_known)
    at = [names.index(name) for name in wanted]
    reader = csv.reader(StringIO(_text(file), newline=""), delimiter=separator, strict=True)
    begun = False
    try:
        for row in reader:
            if not any(field.strip() for field in row):
                continue
            if not begun:  # the names
                begun = True
                continue
            if len(row) != len(names):
                raise UserError(
                    f"{file}, line {reader.line_num}: {len(row)} fields, and the first line has "
                    f"{len(names)}; put what holds a {separator!r} in quotes, or correct the line"
                )
            yield reader.line_num, [row[i].strip() for i in at]
    except csv.Error as error:
        raise UserError(f"{file}, line {reader.line_num}: {error}; correct the quotes there") from error


def _text(file: Path) -> str:
    """The text of a file, which is UTF-8 with or without a mark at its beginning."""
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read table {file}: {error.strerror}; correct the path") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}, line {line}: no UTF-8; save the table as CSV in UTF-8") from error
    if "\0" in text:
        raise UserError(f"{file} is no table of text; save it as CSV in UTF-8")
    return text


def _json_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(_text(file).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{file}, line {line}: no JSON ({error}); give an object a line") from error
        if not isinstance(row, dict):
            raise UserError(f"{file}, line {line}: no JSON object; give one a line")
        yield line, row


def _as_text(value: Any, where: str) -> str:
    """A path, a label or a part as text; nothing for none and for what is no number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if not isinstance(value, str | int | float):
        raise UserError(f"{where}: {type(value).__name__}, no text and no number; give one of them")
    return str(value).strip()


def _parquet_columns(file: Path) -> list[str]:
    """The columns of numbers and text; none where images are stored in the file itself.

    Bytes are no paths, they may be images.
    """
    fields = list(_parquet_schema(file))
    if any(
        hasattr(field.type, "get_field_index") and field.type.get_field_index("bytes") >= 0
        for field in fields
    ):
        return []
    return [f.name for f in fields if f.type.num_fields == 0 and "binary" not in str(f.type)]


def _parquet_schema(file: Path) -> Any:
    pq = _pyarrow_parquet()
    try:
        return pq.read_schema(file)
    except Exception as error:  # damaged files lead to errors of many kinds
        raise UserError(f"cannot read table {file}: {error}; correct the path or write it again") from error


def _parquet_rows(file: Path, wanted: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    schema = _parquet_schema(file)
    try:
        batches = _pyarrow_parquet().read_table(file, columns=list(dict.fromkeys(wanted))).to_batches()
    except Exception as error:
        raise UserError(f"cannot read table {file}: {error}; correct the path or write it again") from error
    named, classes = class_label(schema, str(file))
    columns = [[v for batch in batches for v in batch.column(name).to_pylist()] for name in wanted]
    for line, values in enumerate(zip(*columns, strict=True), start=1):
        row = []
        for name, value in zip(wanted, values, strict=True):
            if name == named and classes and isinstance(value, int):
                if value >= len(classes):
                    raise UserError(
                        f"{file}, row {line}, {name}: class {value}, and its metadata names {len(classes)} "
                        "classes, from 0 on; correct one of them"
                    )
                value = classes[value] if value >= 0 else None
            row.append(_as_text(value, f"{file}, row {line}, {name}"))
        yield line, row


def _pyarrow_parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet files need pyarrow; pip install 'fastsemi[parquet]'") from error
    return pyarrow.parquet
