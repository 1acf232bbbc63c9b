"""Finds where in an Arrow file each image lies: its bytes are a piece of the mapped file."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pyarrow as pa

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.archive_index import Found
from fastsemi.loaders.index.header import BROKEN, image_header
from fastsemi.loaders.sources.hugging_face import image_column, label_column, require_bytes, values_of


def scan(path: str, max_pixels: int, has_classes: bool) -> Found:
    """List the images of a file.

    Raises:
        UserError: No Arrow file, no image column, or images that are compressed.
    """
    try:
        with pa.memory_map(path) as mapped:
            return _scan(path, mapped.read_buffer(mapped.size()), max_pixels, has_classes)
    except UserError:
        raise
    except Exception as error:  # damaged files lead to errors of many kinds
        raise UserError(
            f"cannot read Arrow file {path}: {error}; correct the path or write it again"
        ) from error


def _scan(path: str, whole: pa.Buffer, max_pixels: int, has_classes: bool) -> Found:
    batches = _open(whole)
    image = image_column(path, batches.schema)
    label, classes = label_column(path, batches.schema) if has_classes else (None, ())
    found, elsewhere = Found(classes=classes), None
    for batch in batches:
        content, paths = values_of(batch.column(image))
        places = _places(path, whole, content)
        labels = batch.column(label).to_pylist() if label is not None else [None] * len(places)
        for (start, length), name, own_label in zip(places, paths, labels, strict=True):
            value = memoryview(whole)[start : start + length]
            found.names.append(f"{len(found.names)}/{(name or 'image').rsplit('/', 1)[-1]}")
            found.labels.append(own_label)
            found.sizes.append(image_header(BytesIO(value), max_pixels) if value else BROKEN)
            found.offset.append(start)
            found.length.append(length)
            elsewhere = elsewhere or (name if name and not length else None)
    require_bytes(path, len(found.names), sum(map(bool, found.length)), elsewhere)
    return found


def _places(path: str, whole: pa.Buffer, content: pa.Array) -> list[tuple[int, int]]:
    """Where each value begins in the file and how long it is; 0, 0 for none."""
    if content.null_count == len(content):
        return [(0, 0)] * len(content)
    kinds = {pa.binary(): np.int32, pa.large_binary(): np.int64}
    _, ends, data = content.buffers() if content.type in kinds else (None, None, None)
    if data is None or ends is None:
        raise UserError(f"{path} holds images as {content.type}; write it with save_to_disk of datasets")
    first = data.address - whole.address
    if not 0 <= first <= whole.size - data.size:
        raise UserError(f"{path} is compressed; write it with save_to_disk of datasets, or as Parquet")
    at = np.frombuffer(ends, kinds[content.type])[content.offset :][: len(content) + 1].astype(np.int64)
    valid = content.is_valid().to_numpy(zero_copy_only=False)
    starts, lengths = np.where(valid, first + at[:-1], 0), np.where(valid, np.diff(at), 0)
    return list(zip(starts.tolist(), lengths.tolist(), strict=True))


def _open(whole: pa.Buffer) -> pa.RecordBatchReader:
    """Batches of a stream, which `datasets` writes, or of a file."""
    if whole[:6].to_pybytes() == b"ARROW1":
        file = pa.ipc.open_file(whole)
        return pa.RecordBatchReader.from_batches(
            file.schema, map(file.get_batch, range(file.num_record_batches))
        )
    return pa.ipc.open_stream(whole)
