"""Images with more than 8 bits a channel, and with transparency, as their headers say."""

from __future__ import annotations

import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

from PIL import Image

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.rgb import BITS_PER_SAMPLE
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.index.formats import FORMATS, is_jpeg_name

_PNG_DEPTH = 24  # where a PNG has its bits a channel


def count_kinds(images: ImageSet) -> tuple[int, int]:
    """How many images have more than 8 bits a channel, and how many have transparency.

    JPEGs have neither and are not opened; no pixel is decoded.
    """
    source = images.source
    if source.is_raw:
        return 0, 0
    ids = [i for i in images.ids.tolist() if not is_jpeg_name(source.name(i))]

    def look(i: int) -> tuple[bool, bool]:
        try:
            return _kind(source.read_one(i))
        except BadImageError:
            return False, False

    with warnings.catch_warnings():  # set here, because the filter belongs to the process, not to a thread
        warnings.simplefilter("ignore")
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            found = list(pool.map(look, ids, chunksize=256))
    return sum(deep for deep, _ in found), sum(clear for _, clear in found)


def _kind(content: bytes) -> tuple[bool, bool]:
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (8,))
            deep = image.mode[0] in "IF" or max(bits) > 8
            if image.format == "PNG":
                deep = content[_PNG_DEPTH] > 8
            return deep, image.has_transparency_data
    except (
        Exception
    ):  # Pillow's readers raise whatever the damaged bytes lead to; broken files are counted elsewhere
        return False, False
