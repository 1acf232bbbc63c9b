"""Writes images into a `.beton` file, FFCV's format, without FFCV."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, Literal, get_args

import numpy as np
from PIL import Image

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.common.job import WHOLE, Job
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.engines.damage import damage
from fastsemi.loaders.engines.reference import decode_rgb
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.beton_format import (
    ALLOCATION,
    FIELD,
    HEADER,
    IMAGE,
    IMAGE_FIELD,
    INT_FIELD,
    JPEG_MODE,
    MAX_SIDE,
    NAMES_MAGIC,
    PAGE_SIZE,
    RAW_MODE,
    VERSION,
)

Mode = Literal["jpeg", "raw"]


@dataclass(frozen=True)
class Encoding:
    """How images are stored."""

    mode: Mode = "jpeg"
    """JPEG, or pixels: then nothing is decoded in training, for 5 to 10 times the space."""
    max_side: int = 500
    """Larger images are reduced to this longer side; 0 keeps all sizes."""
    quality: int = 90
    """JPEG quality of images that are encoded anew. A JPEG that is small enough is stored as it is."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        if self.mode not in get_args(Mode):
            raise UserError(f"mode {self.mode!r} is unknown; use {' or '.join(get_args(Mode))}")
        if not 0 <= self.max_side <= MAX_SIDE:
            raise UserError(f"max_side is {self.max_side}; give 1 to {MAX_SIDE}, or 0 to keep all sizes")
        if not 1 <= self.quality <= 100:
            raise UserError(f"quality is {self.quality}; give 1 to 100")


@dataclass(frozen=True)
class Entry:
    """One image as it is stored."""

    data: bytes
    width: int
    height: int
    mode: int


def encode(data: bytes, name: str, encoding: Encoding, max_pixels: int) -> Entry:
    """Bring an image file into the form in which it is stored. EXIF orientation is ignored.

    Raises:
        BadImageError: It cannot be decoded, or does not fit.
    """
    if encoding.mode == "jpeg" and (entry := _as_it_is(data, encoding, max_pixels)):
        return entry
    image = decode_rgb(data, name, max_pixels)
    side = max(image.size)
    if encoding.max_side and side > encoding.max_side:
        scale = encoding.max_side / side
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    if encoding.mode == "raw":
        content, mode = image.tobytes(), RAW_MODE
    else:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=encoding.quality)
        content, mode = buffer.getvalue(), JPEG_MODE
    if len(content) > PAGE_SIZE or max(image.size) > MAX_SIDE:
        raise BadImageError(
            name,
            f"{image.width} x {image.height} pixels take {len(content)} bytes, over the {PAGE_SIZE} of a "
            ".beton page; give a smaller --max_side",
        )
    return Entry(content, image.width, image.height, mode)


def _as_it_is(data: bytes, encoding: Encoding, max_pixels: int) -> Entry | None:
    """The file itself, where it is a small enough JPEG that FFCV can decode too."""
    try:
        with Image.open(BytesIO(data), formats=("JPEG",)) as image:
            width, height = image.size
            if image.mode not in ("RGB", "L") or width * height > max_pixels or len(data) > PAGE_SIZE:
                return None
            if max(width, height) > (encoding.max_side or MAX_SIDE):
                return None
            image.draft(image.mode, (1, 1))  # decode at an eighth of the size, only to see that it is whole
            image.load()
        if damage(data):
            return None
    except Exception:  # Pillow raises many kinds on hostile files; decode_rgb finds the words
        return None
    return Entry(data, width, height, JPEG_MODE)


def write_beton(
    out: Path,
    source: Source,
    index: Index,
    *,
    encoding: Encoding,
    max_pixels: int,
    threads: int = 1,
    bad: BadImages | None = None,
    progress: Callable[[int, int], None] | None = None,
    job: Job = WHOLE,
) -> int:
    """Write all images of a source, in its order, with fields `image` and `label` (-1 without classes).

    Args:
        out: The file; it appears when it is complete.
        source: The images.
        index: Their classes and names.
        encoding: How to store them.
        max_pixels: Larger images are refused.
        threads: Threads that encode.
        bad: Policy for broken images, which are left out; by default the first one stops.
        progress: Called with images done and images in all.
        job: Which share of the images, in place of all.

    Returns:
        Number of images written.

    Raises:
        BadImageError: More broken images than `bad` allows.
        UserError: The file cannot be written, or no image is left.
    """
    partial = out.with_name(f".{out.name}.{uuid.uuid4().hex}")
    bad = bad or BadImages()
    ids = range(len(index))[job.share(len(index))]
    if not ids:
        raise UserError(f"{index.root} holds {len(index)} images for {job.count} jobs; give fewer jobs")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(partial, "wb") as file:
            writer = _Writer(file, len(ids))
            # Closed here: one that an error leaves to the garbage collector may end in a thread of its pool.
            with closing(_encoded(source, ids, encoding, max_pixels, threads)) as pending:
                labels = index.labels[ids.start : ids.stop].tolist()
                for i, future, label in zip(ids, pending, labels, strict=True):
                    try:
                        writer.add(future.result(), label, index.relative_path(i))
                    except BadImageError as error:
                        bad.record(error)
                    if progress:
                        progress(i + 1 - ids.start, len(ids))
            if not writer.names:
                raise UserError(f"no image of {index.root} can be decoded; nothing was written")
            writer.finish(index.classes)
        os.replace(partial, out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; free space or correct it") from error
    finally:
        partial.unlink(missing_ok=True)
    return len(writer.names)


def _encoded(
    source: Source, ids: range, encoding: Encoding, max_pixels: int, threads: int
) -> Generator[Future[Entry], None, None]:
    """Entries in order, encoded a little ahead."""

    def one(i: int) -> Entry:
        return encode(source.read_one(i), source.name(i), encoding, max_pixels)

    with ThreadPoolExecutor(threads, thread_name_prefix="fastsemi-beton") as pool:
        ahead: list[Future[Entry]] = []
        try:
            for i in ids:
                ahead.append(pool.submit(one, i))
                if len(ahead) > 4 * threads:
                    yield ahead.pop(0)
            yield from ahead
        finally:
            pool.shutdown(cancel_futures=True)


class _Writer:
    """Lays out header, records, pages and table in an empty file."""

    def __init__(self, file: BinaryIO, count: int):
        self._file = file
        self._record = np.dtype([("image", IMAGE), ("label", "<i8")], align=True)
        self._records = np.zeros(count, self._record)
        self._allocations = np.zeros(count, ALLOCATION)
        self.names: list[str] = []
        self._position = HEADER.itemsize + 2 * FIELD.itemsize + self._records.nbytes
        self._to_page()

    def _to_page(self) -> None:
        self._position = -(-self._position // PAGE_SIZE) * PAGE_SIZE

    def _put(self, data: bytes) -> int:
        self._file.seek(self._position)
        self._file.write(data)
        start = self._position
        self._position += len(data)
        return start

    def add(self, entry: Entry, label: int, name: str) -> None:
        if self._position % PAGE_SIZE + len(entry.data) > PAGE_SIZE:  # FFCV reads page by page
            self._to_page()
        i, start = len(self.names), self._put(entry.data)
        self._records[i] = ((entry.mode, entry.width, entry.height, start), label)
        self._allocations[i] = (i, start, len(entry.data))
        self.names.append(name)

    def finish(self, classes: tuple[str, ...]) -> None:
        self._to_page()
        content = json.dumps({"classes": classes, "names": self.names}).encode()
        names = self._put(content)
        self._to_page()
        count = len(self.names)
        table = self._put(self._allocations[:count].tobytes())
        fields = np.zeros(2, FIELD)
        for field, type_id, name in zip(fields, (IMAGE_FIELD, INT_FIELD), (b"image", b"label"), strict=True):
            field["type_id"] = type_id
            field["name"][: len(name)] = np.frombuffer(name, np.uint8)
        pointer = NAMES_MAGIC + np.array([names, len(content)], "<u8").tobytes()
        fields[1]["arguments"][: len(pointer)] = np.frombuffer(pointer, np.uint8)
        self._position = 0
        self._put(np.array([(VERSION, 2, PAGE_SIZE, count, table)], HEADER).tobytes())
        self._put(fields.tobytes() + self._records[:count].tobytes())
