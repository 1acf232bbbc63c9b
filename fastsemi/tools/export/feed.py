"""A picture's file as the input of a network: what the loader does, in Pillow and NumPy alone.

The text of this file goes into the script beside an exported network (`contract.write_script`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.loaders.engines.rgb import TURNS, to_rgb

ORIENTATION = 274  # EXIF's tag


def preprocess(file: str | Path | BinaryIO, contract: Mapping[str, Any]) -> NDArray[np.float32]:
    """Read a picture as the network saw those that it was evaluated on.

    Args:
        file: A path, or an open file.
        contract: `image_size`, `crop`, `resize`, `exif`, `mean` and `std`.

    Returns:
        [3, image_size, image_size]: the centred square of `crop` of the shorter side, scaled by Pillow's
        bicubic filter (with `resize` shorter_side before it is cut), channels red, green, blue, divided by
        255, then minus `mean` and divided by `std`.
    """
    with Image.open(file) as image:
        turned = image.getexif().get(ORIENTATION, 1) if contract["exif"] == "apply" else 1
        picture = to_rgb(image)
    if turned in TURNS:
        picture = picture.transpose(TURNS[turned])
    size, crop, shorter = contract["image_size"], contract["crop"], min(picture.size)
    if contract["resize"] == "shorter_side":
        width, height = (int(size / crop) * side // shorter for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
        left, top = round((width - size) / 2), round((height - size) / 2)
        square = picture.crop((left, top, left + size, top + size))
    else:
        side = max(round(shorter * crop), 1)
        left, top = ((whole - side) // 2 for whole in picture.size)
        square = picture.crop((left, top, left + side, top + side))
        square = square.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(square, np.float32) / np.float32(255)
    normal = (pixels - np.float32(contract["mean"])) / np.float32(contract["std"])
    return np.ascontiguousarray(normal.transpose(2, 0, 1))
