"""Pictures that a program holds, as a source like any other."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.rgb import to_rgb
from fastsemi.loaders.index.index import Index, pack_paths
from fastsemi.loaders.index.settings import Exif

Picture = Image.Image | NDArray[np.uint8]
"""A picture of Pillow's, or its pixels: [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] uint8."""


class PicturesInMemory:
    """Pictures as PNGs, which keep every pixel; implements `fastsemi.loaders.sources.base.Source`.

    Engines read them as they read files, so a picture has the same views from memory as from the disk.

    Args:
        pictures: N of them.
        names: What each is called.
        exif: Whether Pillow's pictures are turned by their EXIF orientation.

    Raises:
        UserError: Something is no picture, or cannot be decoded.
    """

    def __init__(self, pictures: Sequence[Picture], names: Sequence[str], *, exif: Exif = "ignore"):
        opened = [_rgb(picture, name, exif) for picture, name in zip(pictures, names, strict=True)]
        self._files = [_png(image) for image in opened]
        blob, offsets = pack_paths([name.encode() for name in names])
        self.index = Index(
            root=Path(),
            classes=(),
            path_blob=blob,
            path_offsets=offsets,
            labels=np.full(len(opened), -1, np.int32),
            sizes=np.array([image.size for image in opened], np.int32).reshape(-1, 2),
            broken=np.zeros(0, np.int64),
        )

    def __len__(self) -> int:
        return len(self._files)

    def read(self, ids: Sequence[int] | NDArray) -> list[bytes | BadImageError]:
        """The PNG of each."""
        return [self._files[int(i)] for i in ids]

    def expect(self, ids: Sequence[int] | NDArray) -> None:
        """They are here."""

    def read_one(self, i: int) -> bytes:
        """The PNG of one."""
        return self._files[i]

    def name(self, i: int) -> str:
        """What it is called."""
        return self.index.relative_path(i)

    @property
    def is_raw(self) -> bool:
        """They are PNGs."""
        return False

    def size(self, i: int) -> tuple[int, int]:
        """Width and height in pixels."""
        width, height = self.index.sizes[i]
        return int(width), int(height)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """[N, 2] width and height of each."""
        return self.index.sizes

    @property
    def turns(self) -> NDArray[np.uint8] | None:
        """None: they are turned already."""
        return None

    def as_stored(self) -> PicturesInMemory:
        """These."""
        return self


def _rgb(picture: Picture, name: str, exif: Exif) -> Image.Image:
    image = picture if isinstance(picture, Image.Image) else _from_pixels(picture, name)
    try:
        return to_rgb(ImageOps.exif_transpose(image) if exif == "apply" else image)
    except (OSError, SyntaxError, ValueError) as error:  # Pillow decodes when pixels are first asked for
        raise UserError(f"{name} cannot be decoded: {error}; repair its file") from error


def _from_pixels(pixels: NDArray[np.uint8], name: str) -> Image.Image:
    array = np.asarray(pixels)
    shape = array.shape[:2] if array.ndim == 3 and array.shape[2] == 1 else array.shape
    colours = len(shape) == 2 or (len(shape) == 3 and shape[2] in (3, 4))
    if array.dtype != np.uint8 or not colours or 0 in shape:
        raise UserError(
            f"{name} is an array of {array.dtype} {list(array.shape)}; give uint8 pixels [H, W, 3], or grey "
            "ones [H, W]"
        )
    return Image.fromarray(np.ascontiguousarray(array.reshape(shape)))


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
