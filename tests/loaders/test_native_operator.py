"""The C++ operator against Pillow, on every kind of JPEG, window and broken file."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastsemi.loaders.engines import native_operator
from fastsemi.loaders.engines.reference import decode_rgb

MISSING = native_operator.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SIDE = 64
ANY = 10**9


def photo(width: int, height: int, seed: int = 0) -> np.ndarray:
    """[H, W, 3] with slopes, edges and mild noise, which is what photographs are made of."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(9 * x + c) * np.cos(7 * y - c) * 60 + 90 * (x + y > 0.4 + c / 3) for c in (0.0, 1.0, 2.0)]
    pixels = np.stack(waves, -1) + 80 + rng.normal(0, 6, (height, width, 3))
    return pixels.clip(0, 255).astype(np.uint8)


def save(image: np.ndarray | Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, options.pop("format", "JPEG"), **options)
    return buffer.getvalue()


def expected(data: bytes, windows: np.ndarray, flips: np.ndarray, side: int = SIDE) -> np.ndarray:
    """[V, S, S, 3] as the reference engine computes them."""
    image = decode_rgb(data, "", ANY)
    views = []
    for (left, top, width, height), flip in zip(windows.tolist(), flips, strict=True):
        view = image.crop((left, top, left + width, top + height)).resize(
            (side, side), Image.Resampling.BICUBIC
        )
        views.append(np.asarray(view)[:, ::-1] if flip else np.asarray(view))
    return np.stack(views)


def run(
    files: list[bytes], windows, flips=None, *, side=SIDE, threads=2, sizes=None, max_pixels=ANY, op=None
):
    """Views [V, B, S, S, 3] and errors of one batch."""
    windows = np.asarray(windows, np.int32)
    flips = np.zeros(windows.shape[:2], bool) if flips is None else np.asarray(flips)
    sizes = np.zeros((len(files), 2), np.int32) if sizes is None else np.asarray(sizes, np.int32)
    out = np.zeros((len(windows), len(files), side, side, 3), np.uint8)
    operator = op or native_operator.Operator(threads)
    try:
        errors = operator.wait(operator.submit(files, windows, flips, out, max_pixels, sizes), 60)
    finally:
        if op is None:
            operator.close()
    return out, errors


def one(data: bytes, windows, flips=None, **options) -> np.ndarray:
    """Views [V, S, S, 3] of one file that must work."""
    out, errors = run(
        [data], np.asarray(windows)[:, None], None if flips is None else np.asarray(flips)[:, None], **options
    )
    assert errors == [None]
    return out[:, 0]


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b.astype(int))


def ycck(image: Image.Image) -> bytes:
    """A CMYK file whose Adobe marker says that its colours are YCCK."""
    data = bytearray(save(image, quality=92))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


PIXELS = photo(211, 157)
IMAGE = Image.fromarray(PIXELS)
KINDS = {
    **{
        ":".join(s): simplejpeg.encode_jpeg(PIXELS, 92, colorsubsampling=s)
        for s in ("444", "422", "420", "440", "411")
    },
    "grey": save(IMAGE.convert("L"), quality=92),
    "progressive": save(PIXELS, quality=92, progressive=True),
    "progressive 4:4:4": save(PIXELS, quality=92, progressive=True, subsampling=0),
    "optimised": save(PIXELS, quality=92, optimize=True),
    "restarts": save(PIXELS, quality=92, restart_marker_blocks=3),
    "restart rows": save(PIXELS, quality=92, restart_marker_rows=1, subsampling=0),
    "rgb": save(PIXELS, quality=92, keep_rgb=True),
    "cmyk": save(IMAGE.convert("CMYK"), quality=92),
    "ycck": ycck(IMAGE.convert("CMYK")),
    "low quality": save(PIXELS, quality=12),
    "best quality": save(PIXELS, quality=100, subsampling=0),
}
WINDOWS = np.array([[0, 0, 211, 157], [17, 33, 97, 81], [150, 100, 61, 57], [64, 48, 32, 16]], np.int32)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_match_pillow(kind):
    flips = np.array([False, True, False, True])
    diff = difference(one(KINDS[kind], WINDOWS, flips), expected(KINDS[kind], WINDOWS, flips))
    assert diff.mean((1, 2, 3)).max() < 0.7
    assert (diff > 4).mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kernels", ["avx512", "avx2", "sse4.1", "portable"])
def test_every_instruction_set_gives_the_same_bytes(kind, kernels):
    from fastsemi import _native

    if kernels not in _native.available_kernels():
        pytest.skip(f"this CPU has no {kernels}")
    op = native_operator.Operator(1, kernels)
    out, _ = run([KINDS[kind]], WINDOWS[:, None], op=op)
    op.close()
    np.testing.assert_array_equal(out[:, 0], one(KINDS[kind], WINDOWS))


@pytest.mark.parametrize("kind", [k for k in KINDS if "progressive" not in k and k not in ("cmyk", "ycck")])
def test_own_entropy_decoder_equals_libjpeg(kind):
    assert_decoders_agree(KINDS[kind])


def assert_decoders_agree(data: bytes) -> None:
    from fastsemi import _native

    results = []
    for use_baseline in (True, False):
        out = np.zeros((len(WINDOWS), 1, SIDE, SIDE, 3), np.uint8)
        op = _native.Operator(1, "", use_baseline)
        flips, sizes = np.zeros((len(WINDOWS), 1), bool), np.zeros((1, 2), np.int32)
        assert op.wait(op.submit([data], False, WINDOWS[:, None], flips, out, ANY, sizes), 60) == [(0, "")]
        op.close()
        results.append(out)
    np.testing.assert_array_equal(results[0], results[1])


def test_superfluous_fill_bytes_are_left_to_libjpeg():
    data = KINDS["best quality"]
    stuffed = data.index(b"\xff\x00", len(data) // 2)
    assert_decoders_agree(data[:stuffed] + b"\xff" * 27 + data[stuffed:])


@pytest.mark.parametrize("subsampling", ["444", "422", "420", "440", "411"])
@pytest.mark.parametrize("size", [(3, 3), (1, 1), (2, 9), (5, 2), (17, 4), (8, 33)])
def test_tiny_images(size, subsampling):
    data = simplejpeg.encode_jpeg(photo(size[0], size[1], seed=3), 95, colorsubsampling=subsampling)
    windows = np.array([[0, 0, *size], [size[0] - 1, size[1] - 1, 1, 1], [0, 0, 1, size[1]]])
    flips = np.array([True, False, True])
    diff = difference(one(data, windows, flips), expected(data, windows, flips))
    assert diff.mean((1, 2, 3)).max() < 1.5


@pytest.mark.parametrize("side", [1, 5, 32, 63, 64, 65, 224])
def test_output_sizes(side):
    data = KINDS["4:2:0"]
    diff = difference(one(data, WINDOWS, side=side), expected(data, WINDOWS, np.zeros(4, bool), side))
    assert diff.mean((1, 2, 3)).max() < 1.0


def test_edges_of_the_image_and_of_blocks():
    windows = np.array(
        [
            [x, y, w, h]
            for x, w in ((0, 1), (15, 2), (16, 48), (210, 1), (7, 204))
            for y, h in ((0, 157), (31, 2), (156, 1))
        ]
    )
    for kind in ("4:2:0", "4:2:2", "4:4:0"):
        diff = difference(
            one(KINDS[kind], windows), expected(KINDS[kind], windows, np.zeros(len(windows), bool))
        )
        assert diff.mean((1, 2, 3)).max() < 1.5


@pytest.mark.parametrize("ratio", [1.5, 2.0, 2.9, 3.0, 4.5, 6.0, 12.5])
def test_large_reductions(ratio):
    pixels = photo(840, 810, seed=5)
    side = int(800 / ratio)
    window = np.array([[13, 5, 803, 801], [300, 200, 97, 103]])
    for options in ({"subsampling": 2}, {"subsampling": 0, "progressive": True}):
        data = save(pixels, quality=92, **options)
        diff = difference(one(data, window, side=side), expected(data, window, np.zeros(2, bool), side))
        assert diff.mean((1, 2, 3)).max() < 1.0


def test_flip_mirrors_exactly():
    views = one(KINDS["4:2:0"], np.repeat(WINDOWS, 2, 0), np.array([False, True] * 4))
    np.testing.assert_array_equal(views[0::2], views[1::2, :, ::-1])


@pytest.mark.parametrize("kernels", ["portable", "sse4.1", "avx2", "avx512"])
def test_stored_pixels_are_cut_out_of_their_file(kernels, tmp_path):
    """Images one behind the other, of widths around the steps of the SIMD loops."""
    from fastsemi import _native

    if kernels not in _native.available_kernels():
        pytest.skip(f"this CPU cannot run {kernels}")
    rng = np.random.default_rng(0)
    shapes = [(h, w) for w in (1, 2, 7, 8, 9, 15, 16, 17, 31, 33, 64, 150) for h in (1, 5, 90)]
    images = [rng.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    file = tmp_path / "pixels"
    file.write_bytes(b"head" + b"".join(image.tobytes() for image in images))
    offsets = 4 + np.cumsum([0, *(image.size for image in images[:-1])])
    sizes = np.array([(w, h) for h, w in shapes], np.int32)
    windows = np.zeros((2, len(images), 4), np.int32)
    windows[0, :, 2:] = sizes
    corner = rng.integers(0, sizes)
    windows[1] = np.concatenate([corner, 1 + rng.integers(0, sizes - corner)], 1)
    flips = rng.random(windows.shape[:2]) < 0.5
    out = np.zeros((2, len(images), 24, 24, 3), np.uint8)
    expected = np.zeros_like(out)
    op = native_operator.Operator(3, kernels)
    with open(file, "rb") as opened:
        ticket = op.submit_pixels(opened.fileno(), offsets, windows, flips, out, 10**9, sizes)
        assert op.wait(ticket, 30) == [None] * len(images)
        windows[0, 1, 0] = 5  # outside
        offsets[2] = file.stat().st_size - 1  # behind the end
        again = op.submit_pixels(opened.fileno(), offsets, windows, flips, out.copy(), 400, sizes)
        errors = op.wait(again, 30)
    portable = native_operator.Operator(1, "portable")
    windows[0, 1, 0] = 0
    for b, image in enumerate(images):
        portable.resize(image, windows[:, b], flips[:, b], list(expected[:, b]))
    np.testing.assert_array_equal(out, expected)
    assert "window (5, 0" in errors[1] and "the file ends" in errors[2]
    assert all(
        ("max_pixels" in (error or "")) == (w * h > 400) for error, (w, h) in zip(errors, sizes, strict=True)
    )
    op.close()
    portable.close()


@pytest.mark.parametrize("kernels", ["avx512", "avx2", "sse4.1", "portable"])
@pytest.mark.parametrize("size", [(211, 157), (1, 1), (5, 1), (1, 7), (1501, 3), (3, 1501)])
def test_pixels_resize_like_pillow(size, kernels):
    """Odd first rows, the last row of odd heights, windows of one row or column, reductions of up to 23."""
    from fastsemi import _native

    if kernels not in _native.available_kernels():
        pytest.skip(f"this CPU cannot run {kernels}")
    (width, height), image = size, photo(*size, seed=7)
    windows = np.array(
        [
            (0, 0, width, height),
            (0, height - 1, width, 1),
            (width - 1, 0, 1, height),
            (width // 2, height // 2, width - width // 2, height - height // 2),
            (0, min(1, height - 1), max(1, width - 1), max(1, height - 2)),
        ],
        np.int32,
    )
    flips = np.array([False, True, True, False, True])
    op = native_operator.Operator(1, kernels)
    out = np.zeros((len(windows), SIDE, SIDE, 3), np.uint8)
    op.resize(image, windows, flips, list(out))
    op.close()
    diff = difference(out, expected(save(image, format="PNG"), windows, flips))
    assert diff.max() <= 1 and diff.mean() < 0.1


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "BMP", "PNG 16 bit", "PNG palette with alpha"])
@pytest.mark.parametrize("from_file", [False, True])
def test_other_formats_go_through_pillow(form, from_file, tmp_path):
    if form == "PNG 16 bit":
        data = save(Image.fromarray(photo(90, 70)[..., 0].astype(np.uint16) * 200), format="PNG")
    elif form == "PNG palette with alpha":
        data = save(Image.fromarray(photo(90, 70)).quantize(32), format="PNG", transparency=3)
    else:
        data = save(photo(90, 70), format=form)
    windows = np.array([[0, 0, 90, 70], [10, 20, 30, 40]], np.int32)
    flips = np.array([False, True])
    if from_file:
        (tmp_path / "image.bin").write_bytes(data)
        op = native_operator.Operator(1)
        out = np.zeros((2, 1, SIDE, SIDE, 3), np.uint8)
        path = os.fsencode(tmp_path / "image.bin")
        ticket = op.submit_paths(
            [path], windows[:, None], flips[:, None], out, ANY, np.array([[90, 70]], np.int32)
        )
        assert op.wait(ticket, 60) == [None]
        op.close()
        views = out[:, 0]
    else:
        views = one(data, windows, flips, sizes=[[90, 70]])
    assert difference(views, expected(data, windows, flips)).max() <= 1
