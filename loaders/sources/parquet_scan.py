"""Finds where in a Parquet file each image lies: pyarrow reads the values, the pages say where they are."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import partial
from io import BytesIO

import pyarrow.parquet as pq

from fastsemi.common.errors import UserError
from fastsemi.common.urls import is_url
from fastsemi.loaders.index.archive_index import Found
from fastsemi.loaders.index.header import BROKEN, Read, image_header
from fastsemi.loaders.index.opened import open_bytes, read_at
from fastsemi.loaders.sources.hugging_face import image_column, label_column, require_bytes, values_of
from fastsemi.loaders.sources.parquet_codecs import CODECS
from fastsemi.loaders.sources.parquet_pages import DICTIONARY_PAGE, Page, pages

_EXTRA = ("codec", "page_size", "start", "image_length")


def scan(path: str, max_pixels: int, has_classes: bool) -> Found:
    """List the images of a file.

    Raises:
        UserError: No Parquet file, no image column, or images that have no place of their own in it.
    """
    try:
        with open_bytes(path) as file, pq.ParquetFile(file if is_url(path) else path) as parquet:
            return _scan(path, parquet, partial(read_at, file), max_pixels, has_classes)
    except UserError:
        raise
    except Exception as error:  # damaged pages lead to errors of many kinds
        reason = f"{type(error).__name__}: {error}" if isinstance(error, LookupError) else error
        raise UserError(
            f"cannot read Parquet file {path}: {reason}; correct the path or write it again"
        ) from error


def _scan(path: str, parquet: pq.ParquetFile, read: Read, max_pixels: int, has_classes: bool) -> Found:
    schema = parquet.schema_arrow
    image = image_column(path, schema)
    label, classes = label_column(path, schema) if has_classes else (None, ())
    found = Found(classes=classes, extra={name: [] for name in _EXTRA})
    elsewhere = None
    for group in range(parquet.num_row_groups):
        columns = [image] if label is None else [image, label]
        table = parquet.read_row_group(group, columns=columns)
        content, paths = values_of(table[image].combine_chunks())
        values = [memoryview(v.as_buffer()) if v.is_valid else None for v in content]
        places = _Places(path, read, _chunk(parquet, group, image))
        labels = table[label].to_pylist() if label is not None else [None] * len(values)
        for value, name, own_label in zip(values, paths, labels, strict=True):
            found.names.append(f"{len(found.names)}/{os.path.basename(name or 'image')}")
            found.labels.append(own_label)
            found.sizes.append(image_header(BytesIO(value), max_pixels) if value else BROKEN)
            place = places.find(value) if value else _Place(0, 0, 0, 0, 0, 0)
            found.offset.append(place.offset)
            found.length.append(place.length)
            for key in _EXTRA:
                found.extra[key].append(getattr(place, key))
        elsewhere = elsewhere or next((p for p, v in zip(paths, values, strict=True) if p and not v), None)
    require_bytes(path, len(found.names), sum(map(bool, found.length)), elsewhere)
    return found


def _chunk(parquet: pq.ParquetFile, group: int, image: str) -> pq.ColumnChunkMetaData:
    row_group = parquet.metadata.row_group(group)
    for i in range(row_group.num_columns):
        if row_group.column(i).path_in_schema == f"{image}.bytes":
            return row_group.column(i)
    raise UserError(f"column {image} has no field bytes in row group {group}; write the file again")


@dataclass(frozen=True)
class _Place:
    offset: int
    length: int
    codec: int
    page_size: int
    start: int
    image_length: int


class _Places:
    """Where the values of one column chunk lie, asked for in their order."""

    def __init__(self, path: str, read: Read, chunk: pq.ColumnChunkMetaData):
        self._path = path
        self._pages = pages(path, read, chunk)
        self._page: Page | None = None
        self._position = 0
        self._repeated: dict[bytes, _Place] = {}  # of the dictionary page, whose values any page may mean
        self._advance()

    def _advance(self) -> None:
        self._page, self._position = next(self._pages, None), 0
        if self._page is not None and self._page.kind == DICTIONARY_PAGE:
            content = self._page.content
            while self._position + 4 <= len(content):
                (length,) = struct.unpack_from("<I", content, self._position)
                start = self._position + 4
                self._repeated[content[start : start + length]] = self._place(start, length)
                self._position = start + length
            self._advance()

    def _place(self, start: int, length: int) -> _Place:
        page = self._page
        assert page is not None
        if CODECS[page.codec] == "UNCOMPRESSED":
            return _Place(page.offset + start, length, page.codec, 0, 0, length)
        return _Place(page.offset, page.length, page.codec, len(page.content), start, length)

    def find(self, value: memoryview) -> _Place:
        known = self._repeated.get(bytes(value))
        if known is not None:
            return known
        stored = struct.pack("<I", len(value)) + value
        while self._page is not None:
            content, at = self._page.content, self._position
            if content[at : at + len(stored)] != stored:  # levels precede a page's first value
                at = content.find(stored, at)
            if at >= 0:
                self._position = at + len(stored)
                return self._place(at + 4, len(value))
            self._advance()
        raise UserError(
            f"the images of {self._path} are encoded so that one alone cannot be read; write it again with "
            "pyarrow.parquet.write_table(table, path, data_page_version='1.0', use_dictionary=False, "
            "compression='none')"
        )
