"""Pictures of any kind that Pillow reads as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BACKGROUND = (124, 116, 104)  # behind transparent pixels: the mean colour of ImageNet


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB.

    - 16-bit grey, also as 32-bit integers: divided by 257, so that 65,535 becomes 255; more is cut off.
      Pillow's own conversion cuts at 255, which leaves white.
    - Floating point: times 255 where no value is above 1, else as it is, cut off at 0 and 255; NaN is 0.
    - Transparent pixels, partly too: laid on `BACKGROUND`. Pillow's own conversion shows what alpha hides.
    - All else: Pillow's conversion. EXIF orientation and colour profiles are ignored, as torchvision does.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image.convert("I"), np.int64)
        return _grey(np.rint(deep / 257))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=np.inf, neginf=-np.inf)
        return _grey(np.rint(values * (255 if values.max(initial=0) <= 1 else 1)))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8), "L").convert("RGB")
