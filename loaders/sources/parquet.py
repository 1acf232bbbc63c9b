"""Images in Parquet files of Hugging Face's layout: structs of bytes and path, and a class column."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.index.archive_index import build_archive_index
from fastsemi.loaders.sources.archive import ArchiveSource
from fastsemi.loaders.sources.parquet_codecs import CODECS


def require_pyarrow() -> None:
    """Raise `UserError` where pyarrow is missing."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise UserError("Parquet files need pyarrow; pip install 'fastsemi[parquet]'") from error


class ParquetSource(ArchiveSource):
    """Images of Parquet files, read at random.

    Of a file without compression exactly the image's bytes are read. Of a compressed one its page is read and
    decompressed for each image, which is slower, the more so the larger the file's pages are.
    """

    @classmethod
    def open(
        cls,
        files: Sequence[str],
        *,
        has_classes: bool,
        max_pixels: int,
        cache_dir: Path | None = None,
        threads: int = 8,
        refresh: bool = False,
    ) -> ParquetSource:
        """Index the files, or reopen their index.

        Raises:
            UserError: pyarrow is missing, a file is no Parquet file or has no image column or an encoding
                without random access, or what `build_archive_index` raises.
        """
        require_pyarrow()
        from fastsemi.loaders.sources.parquet_scan import scan

        index = build_archive_index(
            "parquet",
            files,
            partial(scan, max_pixels=max_pixels, has_classes=has_classes),
            has_classes=has_classes,
            max_pixels=max_pixels,
            cache_dir=cache_dir,
            threads=min(threads, os.cpu_count() or 1),  # each holds a row group in memory
            refresh=refresh,
        )
        return cls(index)

    def read_one(self, i: int) -> bytes:
        """The encoded bytes of one image.

        Raises:
            BadImageError: They are missing or unreadable.
        """
        extra = self.index.extra
        data = self._stored(i)
        codec = CODECS[extra["codec"][i]]
        if codec == "UNCOMPRESSED":
            return data
        import pyarrow

        try:
            page = pyarrow.decompress(data, int(extra["page_size"][i]), codec.lower(), asbytes=False)
        except (OSError, ValueError) as error:
            raise BadImageError(self.name(i), f"its page cannot be decompressed ({error})") from error
        start = int(extra["start"][i])
        return page[start : start + int(extra["image_length"][i])].to_pybytes()
