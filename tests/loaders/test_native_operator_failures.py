"""The C++ operator under load and on broken files: errors beside good images, time limits, threads, forks."""

from __future__ import annotations

import io
import os
import signal
import sys

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.engines import native_operator

MISSING = native_operator.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

ANY = 10**9


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """Mild noise on a slope."""
    rng = np.random.default_rng(seed)
    slope = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray((slope + rng.integers(0, 50, (height, width, 3))).astype(np.uint8))


def save(image: Image.Image, form: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def run(files: list[bytes], windows, flips=None, *, side=64, threads=2, sizes=None, max_pixels=ANY, op=None):
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


IMAGE = picture(211, 157)
GOOD = save(IMAGE, quality=92)
KINDS = {
    "4:2:0": GOOD,
    "4:4:4": save(IMAGE, quality=92, subsampling=0),
    "grey": save(IMAGE.convert("L"), quality=92),
    "progressive": save(IMAGE, quality=92, progressive=True),
    "restarts": save(IMAGE, quality=92, restart_marker_blocks=3),
    "cmyk": save(IMAGE.convert("CMYK"), quality=92),
    "rgb": save(IMAGE, quality=92, keep_rgb=True),
}


def many(count: int) -> tuple[list[bytes], np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    files, sizes = [], rng.integers(40, 200, (count, 2)).astype(np.int32)
    for i, size in enumerate(sizes.tolist()):
        files.append(save(picture(*size, seed=i), quality=90, progressive=bool(i % 5 == 0)))
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
    op = native_operator.Operator(3)
    outs = [np.zeros_like(want) for _ in range(5)]
    tickets = [op.submit_paths(paths, windows, flips, out, ANY, sizes) for out in outs]
    for ticket, out in reversed(list(zip(tickets, outs, strict=True))):
        assert op.wait(ticket, 60) == [None] * 24
        np.testing.assert_array_equal(out, want)
    op.close()


def test_broken_files_are_reported_beside_good_ones(tmp_path):
    good, middle = GOOD, len(GOOD) // 2
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
    alone, _ = run([good], windows[:, -1:])
    assert [name for name, error in zip(files, errors, strict=True) if error is None] == ["good"]
    np.testing.assert_array_equal(out[:, -1], alone[:, 0])
    assert all("\n" not in error for error in errors if error)


def test_truncation_below_the_window_is_found():
    data = GOOD[: len(GOOD) * 3 // 4]
    _, errors = run([data], [[[0, 0, 30, 20]]])
    assert "Premature end" in errors[0]


def test_damage_inside_is_an_error_but_junk_around_is_not():
    _, errors = run([GOOD[:-2] + b"abcd" + GOOD[-2:], GOOD + b"junk" * 99], [[[0, 0, 30, 20]] * 2])
    assert errors == [None, None]
    broken = bytearray(KINDS["restarts"])
    marker = next(
        i for i in range(len(broken) // 2, len(broken)) if broken[i] == 0xFF and 0xD0 <= broken[i + 1] <= 0xD7
    )
    del broken[marker : marker + 2]
    _, errors = run([bytes(broken)], [[[0, 0, 211, 157]]])
    assert errors[0] is not None


def test_wrong_sizes_and_windows():
    _, errors = run([GOOD], [[[0, 0, 9, 9]]], sizes=[[210, 157]])
    assert "stale" in errors[0] and "211 x 157" in errors[0]
    _, errors = run([save(IMAGE, "PNG")], [[[0, 0, 9, 9]]], sizes=[[210, 157]])
    assert "indexed" in errors[0]
    for window in ([-1, 0, 9, 9], [0, 0, 0, 9], [203, 0, 9, 9], [0, 149, 9, 9], [2**31 - 1, 0, 2**31 - 1, 9]):
        _, errors = run([GOOD], [[window]])
        assert "does not lie inside" in errors[0]
    _, errors = run([GOOD, save(IMAGE, "PNG")], [[[0, 0, 9, 9]] * 2], max_pixels=211 * 157 - 1)
    assert all("max_pixels" in error for error in errors)


def test_huge_dimensions_in_a_small_file():
    data = bytearray(GOOD)
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65,500 x 65,500
    _, errors = run([bytes(data)], [[[0, 0, 9, 9]]], max_pixels=178_000_000)
    assert "max_pixels" in errors[0]
    _, errors = run([bytes(data)], [[[65_000, 65_000, 9, 9]]], max_pixels=2**40)
    assert errors[0] is not None


def test_random_damage_never_crashes():
    rng = np.random.default_rng(0)
    names = list(KINDS)
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
    op = native_operator.Operator(1)
    (tmp_path / "short.jpg").write_bytes(GOOD[:100])
    paths = [os.fsencode(p) for p in (tmp_path / "absent.jpg", tmp_path, tmp_path / "short.jpg")]
    out = np.zeros((1, 3, 8, 8, 3), np.uint8)
    windows = np.tile(np.array([0, 0, 9, 9], np.int32), (1, 3, 1))
    errors = op.wait(
        op.submit_paths(paths, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32)), 60
    )
    op.close()
    assert "No such file" in str(errors[0]) and "regular" in str(errors[1]) and errors[2] is not None


def test_shapes_are_checked():
    op = native_operator.Operator(1)
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
    reason = native_operator.available()
    assert reason is not None and "apt install" in reason and "\n" not in reason
    with pytest.raises(UserError, match="was not built"):
        native_operator.Operator(1)


def test_at_least_one_thread():
    with pytest.raises(UserError, match="at least 1"):
        native_operator.Operator(0)


def test_timeout_then_result():
    files, windows, flips, sizes = many(60)
    op = native_operator.Operator(1)
    out = np.zeros((2, 60, 224, 224, 3), np.uint8)
    ticket = op.submit(files, windows, flips, out, ANY, sizes)
    with pytest.raises(TimeoutError):
        op.wait(ticket, 0.0)
    assert op.wait(ticket, 60) == [None] * 60
    op.close()


def test_submit_without_wait_then_close_and_submit_after_close():
    files, windows, flips, sizes = many(30)
    op = native_operator.Operator(2)
    for _ in range(4):
        out = np.zeros((2, 30, 32, 32, 3), np.uint8)
        op.submit([*files[:-1], save(picture(50, 50), "PNG")], windows, flips, out, ANY, sizes)
    op.close()
    out = np.zeros((2, 30, 32, 32, 3), np.uint8)
    assert set(op.wait(op.submit(files, windows, flips, out, ANY, sizes), 5)) == {"the operator was closed"}
    op.close()


def test_open_and_close_leave_no_thread_or_descriptor(tmp_path, held):
    (tmp_path / "a.jpg").write_bytes(GOOD)
    files = [os.fsencode(tmp_path / "a.jpg")] * 3

    def cycle():
        op = native_operator.Operator(3)
        out = np.zeros((1, 3, 16, 16, 3), np.uint8)
        windows = np.tile(np.array([0, 0, 99, 99], np.int32), (1, 3, 1))
        ticket = op.submit_paths(files, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32))
        assert op.wait(ticket, 60) == [None] * 3
        op.submit_paths(files, windows, np.zeros((1, 3), bool), out, ANY, np.zeros((3, 2), np.int32))
        op.close()

    cycle()
    before = held()
    for _ in range(200):
        cycle()
    before.assert_nothing_more()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_is_refused_and_ends():
    op = native_operator.Operator(2)
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
