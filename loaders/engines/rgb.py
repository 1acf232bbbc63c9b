"""Pictures of any kind that Pillow reads as 8-bit RGB."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS_PER_SAMPLE = 258  # TIFF's tag
BACKGROUND = (124, 116, 104)  # behind transparent pixels: the mean colour of ImageNet

# What Pillow's `ImageOps.exif_transpose` does for each EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as 8-bit RGB.

    - Grey of 9 to 16 bits: its largest value becomes 255. Pillow's own conversion cuts at 255, which leaves
      white.
    - Grey in 32-bit integers: as it is where no value is above 255, else as 16 bits; more is cut off.
    - Floating point: times 255 where no value is above 1, else as it is, cut off at 0 and 255; NaN is 0.
    - Transparent pixels, partly too: laid on `BACKGROUND`. Pillow's own conversion shows what alpha hides.
    - All else: Pillow's conversion. EXIF orientation and colour profiles are ignored, as torchvision does.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image.convert("I"), np.float64)
        return _grey(np.rint(values * (255 / _largest(image, values))))
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image, np.float64), posinf=np.inf, neginf=-np.inf)
        return _grey(np.rint(values * (255 if values.max(initial=0) <= 1 else 1)))
    if image.has_transparency_data:
        canvas = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(canvas, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _largest(image: Image.Image, values: NDArray[np.float64]) -> int:
    """The value of white in a grey picture of more than 8 bits."""
    if image.mode == "I":
        return 255 if values.max(initial=0) <= 255 else 65_535
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))[0]
    return 2**bits - 1 if 8 < bits < 16 else 65_535


def _grey(values: NDArray[np.float64]) -> Image.Image:
    return Image.fromarray(values.clip(0, 255).astype(np.uint8), "L").convert("RGB")
