"""Images in Arrow files, as `save_to_disk` of Hugging Face's `datasets` writes them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastsemi.loaders.index.archive_index import build_archive_index
from fastsemi.loaders.sources.archive import ArchiveSource
from fastsemi.loaders.sources.parquet import require_pyarrow


class ArrowSource(ArchiveSource):
    """Images of Arrow files, whose bytes lie in them as they are: exactly an image's bytes are read."""

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
    ) -> ArrowSource:
        """Index the files, or reopen their index.

        Raises:
            UserError: pyarrow is missing, a file is no Arrow file, is compressed or has no image column, or
                what `build_archive_index` raises.
        """
        require_pyarrow()
        from fastsemi.loaders.sources.arrow_scan import scan

        index = build_archive_index(
            "arrow",
            [file for file in files if not os.path.basename(file).startswith("cache-")],  # of `map`
            partial(scan, max_pixels=max_pixels, has_classes=has_classes),
            has_classes=has_classes,
            max_pixels=max_pixels,
            cache_dir=cache_dir,
            threads=threads,
            refresh=refresh,
        )
        return cls(index)
