"""JPEGs whose data is damaged inside: decoders make up pixels there, and Pillow does not say so."""

from __future__ import annotations

import re

try:
    import simplejpeg
except ImportError:  # then only the native engine finds such damage
    simplejpeg = None

JPEG_MAGIC = b"\xff\xd8\xff"

# libjpeg's warnings after which pixels are made up, as in `kernels/csrc/jpeg/jpeg.cpp`.
_MADE_UP = re.compile(
    r"premature end|bad (Huffman|arithmetic) code|instead of RST|extraneous bytes before marker 0xd[0-7]",
    re.I,
)


def damage(data: bytes) -> str | None:
    """What is wrong inside of a JPEG that libjpeg decodes all the same; None where nothing is known to be.

    The first warning of libjpeg counts. Decodes at an eighth of the size.

    Args:
        data: A file; of other formats nothing is found.
    """
    if simplejpeg is None or not data.startswith(JPEG_MAGIC):
        return None
    try:
        _, _, kind, _ = simplejpeg.decode_jpeg_header(data)
        colours = "CMYK" if kind in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(
            data, colorspace=colours, fastdct=True, min_height=1, min_width=1, min_factor=8
        )
    except ValueError as error:  # of other complaints, of what it does not know, Pillow is the judge
        return str(error) if _MADE_UP.search(str(error)) else None
    return None
