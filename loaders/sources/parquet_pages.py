"""The pages of a Parquet column and where they lie, which pyarrow does not tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.header import Read
from fastsemi.loaders.sources.parquet_codecs import CODECS

_DATA_PAGE, DICTIONARY_PAGE = 0, 2


@dataclass(frozen=True)
class Page:
    """A page of a column chunk."""

    kind: int
    offset: int  # in the file
    length: int
    codec: int  # position in CODECS
    content: bytes  # decompressed


def pages(path: str, read: Read, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    """The pages of a column chunk. Those of version 2 are skipped when compressed: their levels are not."""
    if chunk.compression not in (*CODECS, "LZ4"):
        raise UserError(f"{path} is compressed with {chunk.compression}; write it again with zstd or none")
    codec = CODECS.index("LZ4_RAW" if chunk.compression == "LZ4" else chunk.compression)
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None:
        start = min(start, chunk.dictionary_page_offset)
    data = read(start, chunk.total_compressed_size)
    at = 0
    while at < len(data):
        header, at = _struct(data, at)
        kind, size, length = header[1], header[2], header[3]
        if length < 0:
            raise ValueError(f"a page of {length} bytes")
        content = data[at : at + length]
        if CODECS[codec] != "UNCOMPRESSED" and kind in (_DATA_PAGE, DICTIONARY_PAGE):
            content = pa.decompress(content, size, CODECS[codec].lower(), asbytes=True)
        yield Page(kind, start + at, length, codec, content)
        at += length


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return value, at


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A struct of Thrift's compact protocol, in which Parquet writes page headers: {field id: value}."""
    fields: dict[int, Any] = {}
    number = 0
    while True:
        head = data[at]
        at += 1
        if head == 0:
            return fields, at
        if head >> 4:
            number += head >> 4
        else:
            zigzag, at = _varint(data, at)
            number = zigzag >> 1 ^ -(zigzag & 1)
        fields[number], at = _value(data, at, head & 15)


def _value(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind == 3:  # byte
        return data[at], at + 1
    if kind in (4, 5, 6):  # i16, i32, i64
        zigzag, at = _varint(data, at)
        return zigzag >> 1 ^ -(zigzag & 1), at
    if kind == 7:  # double
        return None, at + 8
    if kind == 8:  # binary
        length, at = _varint(data, at)
        return data[at : at + length], at + length
    if kind == 12:
        return _struct(data, at)
    raise UserError(f"a Parquet page header holds a field of unknown type {kind}; write the file again")
