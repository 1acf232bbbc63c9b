"""The C++ operator against Pillow, on every kind of JPEG, window and broken file."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from fastsemi.errors import UserError
from fastsemi.loaders.engines import _native_op

pytestmark = pytest.mark.skipif(_native_op.available() is not None, reason=str(_native_op.available()))

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
    image = Image.open(io.BytesIO(data)).convert("RGB")
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
    operator = op or _native_op.Operator(threads)
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
    op = _native_op.Operator(1, kernels)
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
    op = _native_op.Operator(3, kernels)
    with open(file, "rb") as opened:
        ticket = op.submit_pixels(opened.fileno(), offsets, windows, flips, out, 10**9, sizes)
        assert op.wait(ticket, 30) == [None] * len(images)
        windows[0, 1, 0] = 5  # outside
        offsets[2] = file.stat().st_size - 1  # behind the end
        again = op.submit_pixels(opened.fileno(), offsets, windows, flips, out.copy(), 400, sizes)
        errors = op.wait(again, 30)
    portable = _native_op.Operator(1, "portable")
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


def test_decoded_pixels_resize_like_pillow():
    op = _native_op.Operator(1)
    out = np.zeros((4, SIDE, SIDE, 3), np.uint8)
    op.resize(PIXELS, WINDOWS, np.array([False, True, False, True]), list(out))
    op.close()
    diff = difference(
        out, expected(save(PIXELS, format="PNG"), WINDOWS, np.array([False, True, False, True]))
    )
    assert diff.max() <= 1 and diff.mean() < 0.05


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
        op = _native_op.Operator(1)
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


def many(count: int) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    files, sizes = [], rng.integers(40, 200, (count, 2)).astype(np.int32)
    for i, size in enumerate(sizes.tolist()):
        files.append(save(photo(size[0], size[1], seed=i), quality=90, progressive=bool(i % 5 == 0)))
    corner = rng.integers(0, sizes // 2, (2, count, 2))
    windows = np.concatenate([corner, rng.integers(1, sizes - corner + 1)], -1).astype(np.int32)
    return files, windows, rng.random((2, count)) < 0.5, sizes


def test_threads_do_not_change_pixels():
    files, windows, flips, sizes = many(40)
    results = [run(files, windows, flips, sizes=sizes, threads=t)[0] for t in (1, 8)]
    np.testing.assert_array_equal(results[0], results[1])


def test_files_equal_bytes_and_many_batches_are_in_flight(tmp_path):
    files, windows, flips, sizes = many(24)
    want, _ = run(files, windows, flips, sizes=sizes)
    for i, data in enumerate(files):
        (tmp_path / f"{i}.jpg").write_bytes(data)
    paths = [os.fsencode(tmp_path / f"{i}.jpg") for i in range(24)]
    op = _native_op.Operator(3)
    outs = [np.zeros_like(want) for _ in range(5)]
    tickets = [op.submit_paths(paths, windows, flips, out, ANY, sizes) for out in outs]
    for ticket, out in reversed(list(zip(tickets, outs, strict=True))):
        assert op.wait(ticket, 60) == [None] * 24
        np.testing.assert_array_equal(out, want)
    op.close()


def test_broken_files_are_reported_beside_good_ones(tmp_path):
    good = KINDS["4:2:0"]
    middle = len(good) // 2
    files = {
        "truncated": good[:middle],
        "no end marker": good[:-2],
        "truncated progressive": KINDS["progressive"][:-200],
        "truncated cmyk": KINDS["cmyk"][:-50],
        "cut and closed": good[:middle] + b"\xff\xd9",
        "zeros": good[:middle] + bytes(middle),
        "only a header": good[:180],
        "magic": b"\xff\xd8\xff",
        "empty": b"",
        "text": b"this is no image",
        "good": good,
    }
    windows = np.repeat(np.array([[[100, 90, 30, 40]]], np.int32), len(files), 1)
    out, errors = run(list(files.values()), windows, sizes=[[211, 157]] * len(files))
    assert [name for name, error in zip(files, errors, strict=True) if error is None] == ["good"]
    np.testing.assert_array_equal(out[:, -1], one(good, windows[:, -1]))
    assert all("\n" not in error for error in errors if error)


def test_truncation_below_the_window_is_found():
    data = KINDS["4:2:0"][: len(KINDS["4:2:0"]) * 3 // 4]
    _, errors = run([data], [[[0, 0, 30, 20]]])
    assert "Premature end" in errors[0]


def test_damage_inside_is_an_error_but_junk_around_is_not():
    good = KINDS["4:2:0"]
    _, errors = run([good[:-2] + b"abcd" + good[-2:], good + b"junk" * 99], [[[0, 0, 30, 20]] * 2])
    assert errors == [None, None]
    broken = bytearray(KINDS["restarts"])
    marker = next(
        i for i in range(len(broken) // 2, len(broken)) if broken[i] == 0xFF and 0xD0 <= broken[i + 1] <= 0xD7
    )
    del broken[marker : marker + 2]
    _, errors = run([bytes(broken)], [[[0, 0, 211, 157]]])
    assert errors[0] is not None


def test_wrong_sizes_and_windows():
    good = KINDS["4:2:0"]
    _, errors = run([good], [[[0, 0, 9, 9]]], sizes=[[210, 157]])
    assert "stale" in errors[0] and "211 x 157" in errors[0]
    _, errors = run([save(PIXELS, format="PNG")], [[[0, 0, 9, 9]]], sizes=[[210, 157]])
    assert "indexed" in errors[0]
    for window in ([-1, 0, 9, 9], [0, 0, 0, 9], [203, 0, 9, 9], [0, 149, 9, 9], [2**31 - 1, 0, 2**31 - 1, 9]):
        _, errors = run([good], [[window]])
        assert "does not lie inside" in errors[0]
    _, errors = run([good, save(PIXELS, format="PNG")], [[[0, 0, 9, 9]] * 2], max_pixels=211 * 157 - 1)
    assert all("max_pixels" in error for error in errors)


def test_huge_dimensions_in_a_small_file():
    data = bytearray(KINDS["4:2:0"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500
    _, errors = run([bytes(data)], [[[0, 0, 9, 9]]], max_pixels=178_000_000)
    assert "max_pixels" in errors[0]
    _, errors = run([bytes(data)], [[[65_000, 65_000, 9, 9]]], max_pixels=2**40)
    assert errors[0] is not None


def test_random_damage_never_crashes():
    rng = np.random.default_rng(0)
    names = ["4:2:0", "4:1:1", "grey", "progressive", "restarts", "cmyk", "rgb"]
    files = []
    for i in range(280):
        data = bytearray(KINDS[names[i % len(names)]])
        for _ in range(1 + i % 4):
            data[rng.integers(2, len(data))] = rng.integers(0, 256)
        files.append(bytes(data))
    windows = np.repeat(np.array([[[100, 90, 30, 40]], [[0, 0, 120, 100]]], np.int32), len(files), 1)
    _, errors = run(files, windows, max_pixels=10**6, side=16)
    assert 0 < sum(error is None for error in errors) < len(files)


def test_missing_file_folder_and_interrupted_file(tmp_path):
    op = _native_op.Operator(1)
    (tmp_path / "short.jpg").write_bytes(KINDS["4:2:0"][:100])
    paths = [os.fsencode(p) for p in (tmp_path / "absent.jpg", tmp_path, tmp_path / "short.jpg")]
    out = np.zeros((1, 3, 8, 8, 3), np.uint8)
    windows = np.tile(np.array([0, 0, 9, 9], np.int32), (1, 3, 1))
    errors = op.wait(
        op.submit_paths(paths, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32)), 60
    )
    op.close()
    assert "No such file" in str(errors[0]) and "regular" in str(errors[1]) and errors[2] is not None


def test_shapes_are_checked():
    op = _native_op.Operator(1)
    out = np.zeros((1, 1, 8, 8, 3), np.uint8)
    windows, flips, sizes = (
        np.array([[[0, 0, 9, 9]]], np.int32),
        np.zeros((1, 1), bool),
        np.zeros((1, 2), np.int32),
    )
    for bad in (
        ([KINDS["grey"]] * 2, windows, flips, out, ANY, sizes),
        ([KINDS["grey"]], windows[0], flips, out, ANY, sizes),
        ([KINDS["grey"]], windows, np.zeros((2, 1), bool), out, ANY, sizes),
        ([KINDS["grey"]], windows, flips, out[:, :, :, ::2], ANY, sizes),
        ([KINDS["grey"]], windows, flips, out.astype(np.int16), ANY, sizes),
        ([KINDS["grey"]], windows, flips, out, ANY, np.zeros((2, 2), np.int32)),
    ):
        with pytest.raises(ValueError):
            op.submit(*bad)
    op.close()


def test_without_the_extension_the_cure_is_named(monkeypatch):
    import fastsemi

    monkeypatch.delattr(fastsemi, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "fastsemi._native", None)
    reason = _native_op.available()
    assert reason is not None and "apt install" in reason and "\n" not in reason
    with pytest.raises(UserError, match="was not built"):
        _native_op.Operator(1)


def test_at_least_one_thread():
    with pytest.raises(UserError, match="at least 1"):
        _native_op.Operator(0)


def test_timeout_then_result():
    files, windows, flips, sizes = many(60)
    op = _native_op.Operator(1)
    out = np.zeros((2, 60, 224, 224, 3), np.uint8)
    ticket = op.submit(files, windows, flips, out, ANY, sizes)
    with pytest.raises(TimeoutError):
        op.wait(ticket, 0.0)
    assert op.wait(ticket, 60) == [None] * 60
    op.close()


def test_submit_without_wait_then_close_and_submit_after_close():
    files, windows, flips, sizes = many(30)
    op = _native_op.Operator(2)
    for _ in range(4):
        out = np.zeros((2, 30, 32, 32, 3), np.uint8)
        op.submit([*files[:-1], save(photo(50, 50), format="PNG")], windows, flips, out, ANY, sizes)
    op.close()
    out = np.zeros((2, 30, 32, 32, 3), np.uint8)
    assert set(op.wait(op.submit(files, windows, flips, out, ANY, sizes), 5)) == {"the operator was closed"}
    op.close()


def test_open_and_close_leave_no_thread_or_descriptor(tmp_path):
    (tmp_path / "a.jpg").write_bytes(KINDS["4:2:0"])
    files = [os.fsencode(tmp_path / "a.jpg")] * 3

    def cycle():
        op = _native_op.Operator(3)
        out = np.zeros((1, 3, 16, 16, 3), np.uint8)
        windows = np.tile(np.array([0, 0, 99, 99], np.int32), (1, 3, 1))
        ticket = op.submit_paths(files, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32))
        assert op.wait(ticket, 60) == [None] * 3
        op.submit_paths(files, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32))
        op.close()

    cycle()
    before = len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task")), threading.active_count()
    for _ in range(200):
        cycle()
    assert (
        len(os.listdir("/proc/self/fd")),
        len(os.listdir("/proc/self/task")),
        threading.active_count(),
    ) == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_is_refused_and_ends():
    op = _native_op.Operator(2)
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        code = 1
        try:
            run([], np.zeros((1, 0, 4)), op=op)
        except RuntimeError:
            op.close()
            del op
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    op.close()
