"""The native reader of headers against Pillow: it is right, or leaves the file to Pillow."""

import os
import random
import struct

import numpy as np
import pytest
from PIL import Image

from fastsemi.loaders.index import look
from fastsemi.loaders.index.index import MAX_PIXELS

pytestmark = pytest.mark.skipif(look.jpeg_headers is None, reason="the native operator was not built")


def segment(marker, content):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def exif(orientation):
    tags = Image.Exif()
    tags[0x010F], tags[0x0112], tags[0x011A], tags[0x0128] = "a maker", orientation, 72.0, 2
    return tags


ENTRIES = (0x010F, 2, 10, 38, 0x0112, 3, 1, 8, 0)  # a text of ten bytes at 38, and an orientation
BIG_ENDIAN = struct.pack(">4sIHHHIIHHIHHI", b"MM\0*", 8, 2, *ENTRIES, 0) + b"ten bytes!"
XMP = b'<x tiff:Orientation="6">'
SURE = {
    "plain": {},
    "progressive": {"progressive": True},
    "resolution": {"dpi": (72, 72), "comment": b"words"},
    "colour profile": {"icc_profile": b"p" * 100_000},
    **{f"orientation {n}": {"exif": exif(n)} for n in (0, 1, 6, 8, 9)},
    "big-endian": {"exif": b"Exif\0\0" + BIG_ENDIAN},
    "both": {"exif": exif(3), "xmp": XMP},
}
LEFT = {
    "XMP alone": {"xmp": XMP},
    "damaged EXIF": {"exif": b"Exif\0\0" + BIG_ENDIAN[:40]},
    "EXIF with a value outside": {"exif": b"Exif\0\0" + BIG_ENDIAN[:-1]},
}


@pytest.fixture
def jpeg(tmp_path):
    """Writes a JPEG, or bytes; returns what both readers find."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 3), dtype=np.uint8)

    def look_at(content=None, mode="RGB", most=MAX_PIXELS, **options):
        path = os.fsencode(tmp_path / "x.jpg")
        if content is None:
            Image.fromarray(pixels).convert(mode).save(os.fsdecode(path), **options)
        else:
            (tmp_path / "x.jpg").write_bytes(content)
        return tuple(look.jpeg_headers([path], most)[0].tolist()), look._header(path, most)

    return look_at


@pytest.mark.parametrize("kind", SURE)
def test_common_jpegs_are_read_as_pillow_reads_them(jpeg, kind):
    assert len(set(jpeg(**SURE[kind]))) == 1


@pytest.mark.parametrize("kind", LEFT)
def test_what_is_odd_is_left_to_pillow(jpeg, kind):
    assert jpeg(**LEFT[kind])[0] == (-1, -1, -1)


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_modes(jpeg, mode):
    assert jpeg(mode=mode) == ((40, 24, 1),) * 2


def test_too_many_pixels_are_left_to_pillow(jpeg):
    assert jpeg(most=40 * 24) == ((40, 24, 1),) * 2
    assert jpeg(most=40 * 24 - 1) == ((-1, -1, -1), (0, 0, 1))


@pytest.mark.filterwarnings("ignore")
def test_mutated_jpegs_are_never_read_otherwise(jpeg, tmp_path):
    jpeg(exif=exif(6), icc_profile=b"p" * 20)
    whole, draw, sure = (tmp_path / "x.jpg").read_bytes(), random.Random(0), 0
    for _ in range(200):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3))):
            data[draw.randrange(300)] = draw.choice((0, 1, 2, 3, 8, 255, draw.randrange(256)))
        native, pillow = jpeg(bytes(data))
        sure += native != (-1, -1, -1)
        assert native in ((-1, -1, -1), pillow)
    assert 40 < sure < 200


def test_whatever_is_no_plain_file_is_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "one.jpg").write_bytes(b"x")
    names = ["pipe.jpg", "folder.jpg", "empty.jpg", "one.jpg", "missing.jpg", str(tmp_path / "one.jpg")]
    stamps = look.stamps(str(tmp_path), names, 2)
    assert stamps[:, 1].tolist() == [-1, -1, 0, 1, -1, 1] and stamps[4, 0] == 0
    assert stamps[3, 0] == os.stat(tmp_path / "one.jpg").st_mtime_ns
    assert (look.headers(str(tmp_path), names, MAX_PIXELS, 2) == (0, 0, 1)).all()


def test_without_the_operator_the_same_is_found(tmp_path, monkeypatch):
    for n in range(3):
        Image.new("RGB", (5 + n, 7)).save(tmp_path / f"{n}.jpg", exif=exif(6))
    Image.new("RGB", (2, 3)).save(tmp_path / "3.png")
    names = [*(f"{n}.jpg" for n in range(3)), "3.png", "4.png"]
    ask = lambda: (look.stamps(str(tmp_path), names, 2), look.headers(str(tmp_path), names, MAX_PIXELS, 2))  # noqa: E731
    native = ask()
    assert native[1].tolist() == [[5, 7, 6], [6, 7, 6], [7, 7, 6], [2, 3, 1], [0, 0, 1]]
    monkeypatch.setattr(look, "file_stamps", None)
    monkeypatch.setattr(look, "jpeg_headers", None)
    assert all((a == b).all() for a, b in zip(native, ask(), strict=True))
