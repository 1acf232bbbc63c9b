"""Odd pictures, made here: each is delivered alike by every engine, or refused in one line that names it.

    python tests/loaders/odd_pictures.py

writes what happens to each into docs/reliability.md.
"""

from __future__ import annotations

import base64
import io
import struct
import sys
import tempfile
import unicodedata
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.reference import decode_rgb
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.loaders.index.index import MAX_PIXELS, build_index
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.folder import FolderSource

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- odd pictures: python tests/loaders/odd_pictures.py writes this -->\n", "<!-- end -->"
BOUND = 1.5  # mean absolute difference of an image from the reference, of 255, as in the contract
WIDTH, HEIGHT = 72, 56
HUGE = 60_000  # pixels a side

# Written by libjpeg with `arith_code`, which Pillow cannot: 24 x 16 pixels, grey, 8x + 4y.
ARITHMETIC = base64.b64decode(
    "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAoHBwgHBgoICAgLCgoLDhgQDg0NDh0VFhEYIx8lJCIfIiEmKzcvJik0KSEiMEEx"
    "NDk7Pj4+JS5ESUM8SDc9Pjv/yQALCAAQABgBAREA/8wABgAQEAX/2gAIAQEAAD8A/wCyhdnCFysucfBYt1UaixpNVsNhN7Ob"
    "onvNmhj/2Q=="
)


def picture(mode: str = "RGB", width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Slopes in three colours with an edge; of modes with alpha a part is see-through."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 255 // width, y * 255 // height, (x + y) * 2 % 256], -1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 8 : width // 3] = (250, 30, 20)
    image = Image.fromarray(pixels)
    if "A" in mode:
        image.putalpha(Image.fromarray((x * 255 // width).astype(np.uint8)))
    if mode == "I;16":
        return Image.fromarray((np.asarray(image.convert("L"), np.uint16) * 257).astype(np.uint16))
    if mode == "1":  # without dithering, of which each filter makes another grey
        return image.convert(mode, dither=Image.Dither.NONE)
    return image.quantize(32) if mode == "P" else image.convert(mode)


def save(image: Image.Image, form: str, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    """A JPEG of `picture`."""
    return save(picture(mode), "JPEG", quality=90, **options)


def four_colours(transform: int | None) -> bytes:
    """A CMYK JPEG whose Adobe marker says 0 (CMYK) or 2 (YCCK); without the marker for None."""
    data = bytearray(jpeg("CMYK"))
    at = data.index(b"Adobe")
    if transform is None:
        del data[at - 4 : at + 12]
    else:
        data[at + 11] = transform
    return bytes(data)


def deep_jpeg() -> bytes:
    """The header of a JPEG with 12 bits a sample, and data."""
    data = bytearray(jpeg())
    frame = data.index(b"\xff\xc0")
    data[frame + 1], data[frame + 4] = 0xC1, 12
    return bytes(data)


def without_last_scans(count: int) -> bytes:
    """A progressive JPEG that ends, properly, some scans early."""
    data = jpeg(progressive=True)
    scans = [i for i in range(len(data)) if data.startswith(b"\xff\xda", i)]
    return data[: scans[-count]] + b"\xff\xd9"


def restarts(change: Callable[[bytearray, int], None]) -> bytes:
    """A JPEG with restart markers, the third of which is changed."""
    data = bytearray(jpeg(restart_marker_blocks=2))
    marker = next(
        i for i in range(data.index(b"\xff\xda"), len(data)) if data[i] == 0xFF and data[i + 1] == 0xD2
    )
    change(data, marker)
    return bytes(data)


def renumber(data: bytearray, marker: int) -> None:
    """Another number than comes next."""
    data[marker + 1] = 0xD6


def lose(data: bytearray, marker: int) -> None:
    """The marker is gone."""
    del data[marker : marker + 2]


def turned(orientation: int) -> bytes:
    """A JPEG with an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(exif=exif)


def with_segment(content: bytes) -> bytes:
    """A JPEG with an EXIF segment of any content."""
    data = jpeg()
    segment = b"Exif\0\0" + content
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def frames(form: str, **options: object) -> bytes:
    """An animation of three frames."""
    first, *rest = [picture().rotate(angle) for angle in (0, 90, 180)]
    return save(first, form, save_all=True, append_images=rest, **options)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge() -> dict[str, bytes]:
    """Headers that claim 60,000 x 60,000 pixels, in five formats."""
    frame = bytearray(jpeg())
    at = frame.index(b"\xff\xc0")
    frame[at + 5 : at + 9] = struct.pack(">HH", HUGE, HUGE)
    png = b"\x89PNG\r\n\x1a\n" + png_chunk(b"IHDR", struct.pack(">IIBBBBB", HUGE, HUGE, 8, 2, 0, 0, 0))
    png += png_chunk(b"IDAT", zlib.compress(bytes(99))) + png_chunk(b"IEND", b"")
    bmp = bytearray(save(picture(), "BMP"))
    bmp[18:26] = struct.pack("<ii", HUGE, HUGE)
    tags = [(256, HUGE), (257, HUGE), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, HUGE), (279, 1)]
    tiff = struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    tiff += b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags) + bytes(4)
    return {
        "60000_by_60000.jpg": bytes(frame),
        "60000_by_60000.png": png,
        "60000_by_60000.bmp": bytes(bmp),
        "60000_by_60000.tif": tiff,
        "60000_by_60000.ppm": b"P6 %d %d 255\n" % (HUGE, HUGE) + bytes(99),
    }


def cut(data: bytes, share: float) -> bytes:
    """The first part of a file."""
    return data[: int(len(data) * share)]


def pictures() -> dict[str, bytes]:
    """The files by name, extension included; the same on every call."""
    baseline, progressive = jpeg(), jpeg(progressive=True)
    webp = save(picture(), "WEBP", lossless=True)
    found = {
        "baseline.jpg": baseline,
        "cmyk.jpg": four_colours(0),
        "ycck.jpg": four_colours(2),
        "cmyk_without_adobe_marker.jpg": four_colours(None),
        "grey.jpg": jpeg("L"),
        "stored_as_rgb.jpg": jpeg(keep_rgb=True),
        "twelve_bits.jpg": deep_jpeg(),
        "arithmetic_coding.jpg": ARITHMETIC,
        "one_bit.png": save(picture("1"), "PNG"),
        "one_bit.tif": save(picture("1"), "TIFF"),
        "palette.png": save(picture("P"), "PNG"),
        "palette_with_a_clear_colour.png": save(picture("P"), "PNG", transparency=0),
        "grey_with_a_clear_value.png": save(picture("L"), "PNG", transparency=90),
        "rgb_with_a_clear_colour.png": save(picture(), "PNG", transparency=(250, 30, 20)),
        "grey_with_alpha.png": save(picture("LA"), "PNG"),
        "alpha.png": save(picture("RGBA"), "PNG"),
        "alpha.webp": save(picture("RGBA"), "WEBP", lossless=True),
        "sixteen_bits.png": save(picture("I;16"), "PNG"),
        "sixteen_bits.tif": save(picture("I;16"), "TIFF"),
        "float.tif": save(picture("F"), "TIFF"),
        "lab.tif": save(picture("LAB"), "TIFF"),
        "one_by_one.png": save(picture(width=1, height=1), "PNG"),
        "one_by_one.jpg": save(picture(width=1, height=1), "JPEG"),
        "five_by_three.jpg": save(picture(width=5, height=3), "JPEG"),
        "one_by_20000.png": save(picture(width=1, height=20_000), "PNG"),
        "20000_by_one.jpg": save(picture(width=20_000, height=1), "JPEG", quality=95),
        **huge(),
        "progressive.jpg": progressive,
        "progressive_without_its_last_scan.jpg": without_last_scans(1),
        "progressive_with_its_first_scans_only.jpg": without_last_scans(7),
        "restart_marker_of_another_number.jpg": restarts(renumber),
        "restart_marker_lost.jpg": restarts(lose),
        "zeros_inside.jpg": baseline[: len(baseline) // 2] + bytes(99) + baseline[len(baseline) // 2 + 99 :],
        "cut_in_half_and_ended.jpg": cut(baseline, 0.5) + b"\xff\xd9",
        "bytes_behind_the_end.jpg": baseline + b"more",
        "bytes_in_place_of_the_end.jpg": baseline[:-2] + b"more",
        "two_pictures_of_a_stereo_camera.jpg": frames("MPO"),
        "animated_gif.jpg": frames("GIF"),
        "animated.png": frames("PNG"),
        "animated.webp": frames("WEBP", lossless=True),
        **{f"exif_orientation_{o}.jpg": turned(o) for o in range(1, 9)},
        "exif_of_noise.jpg": with_segment(bytes(range(200))),
        "exif_that_points_outside.jpg": with_segment(b"II*\0" + struct.pack("<I", 2**31)),
        "exif_empty.jpg": with_segment(b""),
        "text.jpg": b"this is no picture",
        "only_the_magic.jpg": b"\xff\xd8\xff",
        "only_the_magic.png": b"\x89PNG\r\n\x1a\n",
        "png_checksum_of_pixels_wrong.png": _wrong_checksum(),
        "html.png": b"<!DOCTYPE html><html>404</html>",
    }
    for share in (0.1, 0.5, 0.9, 0.99):
        for name, data in (("baseline.jpg", baseline), ("progressive.jpg", progressive)):
            found[f"{share:.0%}_of_a_{name}".replace("%", "_percent")] = cut(data, share)
    for share in (0.5, 0.99):
        for form, ending, data in (
            ("PNG", "png", save(picture(), "PNG")),
            ("WEBP", "webp", webp),
            ("BMP", "bmp", save(picture(), "BMP")),
            ("TIFF", "tif", save(picture(), "TIFF", compression="tiff_lzw")),
            ("GIF", "jpg", save(picture(), "GIF")),
            ("PPM", "ppm", save(picture(), "PPM")),
        ):
            found[f"{share:.0%}_of_a_{form.lower()}.{ending}".replace("%", "_percent")] = cut(data, share)
    return found


def _wrong_checksum() -> bytes:
    data = bytearray(save(picture(), "PNG"))
    data[data.index(b"IDAT") + 40] ^= 1
    return bytes(data)


def names() -> list[bytes]:
    """Names of whole JPEGs, as the file system's bytes: decomposed, composed, no UTF-8, with a tab."""
    forms = [unicodedata.normalize(form, "Ärger é.jpg").encode() for form in ("NFD", "NFC")]
    return [*forms, b"latin\xe9\xff.jpg", b"a b\tc.jpg"]


def write(folder: Path) -> None:
    """Write all pictures into a folder, which is made."""
    folder.mkdir(parents=True)
    for name, data in pictures().items():
        (folder / name).write_bytes(data)


def plans(source: Source) -> Iterator[PlannedBatch]:
    """Each image alone, whole and its middle, mirrored."""
    for i in range(len(source)):
        width, height = (max(1, side) for side in source.size(i))
        middle = (width // 4, height // 4, max(1, width // 2), max(1, height // 2))
        windows = [np.array([window], np.int32) for window in ((0, 0, width, height), middle)]
        views = tuple(ViewPlan(w, np.array([flip])) for w, flip in zip(windows, (False, True), strict=True))
        yield PlannedBatch(np.array([i]), np.zeros(1, np.int64), views)


def one_by_one(engine: EngineName, source: Source) -> tuple[list[BadImageError | None], torch.Tensor]:
    """Errors and views [N, 2, S, S, 3], each image as a batch of its own: what fails spoils no other."""
    running = create_engine(engine, source, image_size=48, threads=2, max_pixels=MAX_PIXELS)
    slots = torch.zeros((len(source), 2, 1, 48, 48, 3), dtype=torch.uint8)
    try:
        pending = [running.submit(plan, slot) for plan, slot in zip(plans(source), slots, strict=True)]
        return [waiting.result(60)[0] for waiting in pending], slots[:, :, 0].float()
    finally:
        running.close()


def outcomes(source: FolderSource) -> Iterator[tuple[str, str]]:
    """Each file of a folder of the pictures and what happens to it, told by Pillow."""
    for i in range(len(source)):
        path = Path(source.name(i))
        if source.size(i) == (0, 0):
            yield path.name, "a broken image, found when indexed"
            continue
        try:
            decode_rgb(path.read_bytes(), path.name, MAX_PIXELS)
        except BadImageError:
            yield path.name, "a broken image, found when decoded"
        else:
            yield path.name, "delivered"


def table(source: FolderSource) -> str:
    """The outcomes as a table."""
    rows: dict[str, list[str]] = {}
    for name, what in outcomes(source):
        rows.setdefault(what, []).append(f"`{name}`")
    lines = ["| what happens | files |", "|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {', '.join(files)} |" for what, files in rows.items()), ""])


def main() -> int:
    """Write the table."""
    warnings.simplefilter("ignore")
    before, _, rest = PAGE.read_text().partition(BEGIN)
    with tempfile.TemporaryDirectory() as work:
        write(Path(work, "set", "a"))
        index = build_index(Path(work, "set"), has_classes=True, cache_dir=Path(work, "index"))
        PAGE.write_text(before + BEGIN + table(FolderSource(index)) + END + rest.partition(END)[2])
    return 0


if __name__ == "__main__":
    sys.exit(main())
