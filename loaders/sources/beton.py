"""Images in `.beton` files, FFCV's format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fastsemi.loaders.index.archive_index import Found, build_archive_index
from fastsemi.loaders.sources.archive import ArchiveSource
from fastsemi.loaders.sources.beton_format import RAW_MODE, read_beton


class BetonSource(ArchiveSource):
    """Images of `.beton` files, written by `fastsemi data beton` or by FFCV (fields of image and int)."""

    @classmethod
    def open(
        cls,
        files: Sequence[str],
        *,
        has_classes: bool,
        max_pixels: int,
        cache_dir: Path | None = None,
        threads: int = 1,
        refresh: bool = False,
    ) -> BetonSource:
        """Index the files, or reopen their index.

        Raises:
            UserError: A file that is no `.beton`, or what `build_archive_index` raises.
        """
        index = build_archive_index(
            "beton",
            files,
            partial(_scan, max_pixels=max_pixels),
            has_classes=has_classes,
            max_pixels=max_pixels,
            cache_dir=cache_dir,
            threads=threads,
            refresh=refresh,
        )
        return cls(index)

    @property
    def raw(self) -> NDArray[np.int64]:
        """[N] 1 where an image is stored as pixels, 0 where it is encoded."""
        return self.index.extra["raw"]

    @property
    def is_file(self) -> bool:
        """Whether all lie in one file, out of which an engine may read by itself."""
        return len(self.index.files) == 1

    @property
    def is_raw(self) -> bool:
        """Whether no image is encoded."""
        return bool(self.raw.all())

    def read_one(self, i: int) -> bytes:
        """The image as a file: the stored JPEG, or the stored pixels as a PPM, which any decoder reads.

        Raises:
            BadImageError: It cannot be read.
        """
        data = self._stored(i)
        if not self.raw[i]:
            return data
        width, height = self.size(i)
        return b"P6 %d %d 255\n" % (width, height) + data


def _scan(path: str, max_pixels: int) -> Found:
    beton = read_beton(path)
    count = len(beton.images)
    width, height = (beton.images[side].astype(np.int64) for side in ("width", "height"))
    fits = width * height <= max_pixels
    sizes = np.stack([width * fits, height * fits], 1)
    return Found(
        names=beton.names or [f"{i:08}" for i in range(count)],
        offset=beton.images["data_ptr"].astype(np.int64).tolist(),
        length=beton.sizes.tolist(),
        sizes=[(w, h, 1) for w, h in sizes.tolist()],
        labels=[None] * count if beton.labels is None else beton.labels.tolist(),
        extra={"raw": (beton.images["mode"] == RAW_MODE).astype(np.int64).tolist()},
        classes=beton.classes,
    )
