"""The layout of a `.beton` file, FFCV's format (version 2), and its reader.

A header, field descriptors, one metadata record a sample, pages of data, then a table of allocations up to
the end of the file. fastsemi's writer also stores class names and the images' names, in pages of their own
that the table does not list and the descriptor of the label points to; FFCV does not look there.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError

VERSION = 2
HEADER = np.dtype(
    [
        ("version", "<u2"),
        ("num_fields", "<u2"),
        ("page_size", "<u4"),
        ("num_samples", "<u8"),
        ("alloc_table_ptr", "<u8"),
    ]
)
FIELD = np.dtype([("type_id", "<u1"), ("name", "<u1", (16,)), ("arguments", "<u1", (1024,))])
ALLOCATION = np.dtype([("sample_id", "<u8"), ("ptr", "<u8"), ("size", "<u8")])
IMAGE = np.dtype([("mode", "<u1"), ("width", "<u2"), ("height", "<u2"), ("data_ptr", "<u8")])
_POINTER = np.dtype([("ptr", "<u8"), ("size", "<u8")])
INT_FIELD, IMAGE_FIELD = 1, 2
# metadata of each field type: float, int, image, bytes, array, JSON, tensor
METADATA = {0: "<f8", INT_FIELD: "<i8", IMAGE_FIELD: IMAGE, 3: _POINTER, 4: "<u8", 5: _POINTER, 6: "<u8"}
JPEG_MODE, RAW_MODE = 0, 1
NAMES_MAGIC = b"fastsemi"  # at the start of the label's arguments, then pointer and size (u8) of the names
PAGE_SIZE = 1 << 23
MAX_SIDE = 65_535  # a side is 16 bits wide


@dataclass(frozen=True, eq=False)
class Beton:
    """What a `.beton` file holds."""

    images: NDArray[np.void]  # [N] of IMAGE
    sizes: NDArray[np.int64]  # [N] bytes of each image
    labels: NDArray[np.int64] | None  # [N] of the first field of whole numbers
    classes: tuple[str, ...]
    names: list[str] | None


def read_beton(path: str) -> Beton:
    """Read all but the images.

    Raises:
        UserError: Not a complete `.beton` of version 2 with an image field.
    """
    try:
        return _read(path)
    except (
        ArithmeticError,
        EOFError,
        LookupError,
        MemoryError,
        OSError,
        RecursionError,
        ValueError,
    ) as error:
        raise UserError(
            f"{path} is no complete .beton file ({error}); write it again with fastsemi data beton"
        ) from error


def _read(path: str) -> Beton:
    end = os.path.getsize(path)
    if end < HEADER.itemsize:
        raise ValueError("it is cut short")
    header = np.fromfile(path, HEADER, 1)[0]
    if header["version"] != VERSION:
        raise ValueError(f"its version is {header['version']}, {VERSION} is known")
    count, table_start = int(header["num_samples"]), int(header["alloc_table_ptr"])
    fields = np.fromfile(path, FIELD, int(header["num_fields"]), offset=HEADER.itemsize)
    types = fields["type_id"].tolist()
    if IMAGE_FIELD not in types:
        raise ValueError("it has no image field")
    record = np.dtype([(f"f{i}", METADATA[t]) for i, t in enumerate(types)], align=True)
    start = HEADER.itemsize + fields.nbytes
    if not start + count * record.itemsize <= table_start <= end:
        raise ValueError("it is cut short")
    records = np.fromfile(path, record, count, offset=start)
    table = np.fromfile(path, ALLOCATION, offset=table_start)
    table = table[np.argsort(table["ptr"])]
    images = records[f"f{types.index(IMAGE_FIELD)}"]
    places = np.searchsorted(table["ptr"], images["data_ptr"])
    if count and (places.max() >= len(table) or (table["ptr"][places] != images["data_ptr"]).any()):
        raise ValueError("its table does not list all images")
    sizes = table["size"][places].astype(np.int64)
    if count and (images["data_ptr"].astype(np.int64) + sizes).max() > end:
        raise ValueError("it is cut short")
    raw = images["mode"] == RAW_MODE
    if (raw & (sizes != 3 * images["width"].astype(np.int64) * images["height"])).any():
        raise ValueError("an image of pixels has another length than its sides say")
    labels = records[f"f{types.index(INT_FIELD)}"] if INT_FIELD in types else None
    classes, names = _names(path, fields, types)
    if names is not None and len(names) != count:
        raise ValueError("it has another number of names than images")
    return Beton(images, sizes, labels, classes, names)


def _names(path: str, fields: NDArray[np.void], types: list[int]) -> tuple[tuple[str, ...], list[str] | None]:
    arguments = fields[types.index(INT_FIELD)]["arguments"].tobytes() if INT_FIELD in types else b""
    if not arguments.startswith(NAMES_MAGIC):
        return (), None
    start, length = np.frombuffer(arguments, "<u8", 2, len(NAMES_MAGIC)).tolist()
    content = json.loads(np.fromfile(path, np.uint8, length, offset=start).tobytes())
    classes, names = (_words(content, key) for key in ("classes", "names"))
    return tuple(classes), names


def _words(content: object, key: str) -> list[str]:
    words = content.get(key) if isinstance(content, dict) else None
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise ValueError("its names are no names")
    return words
