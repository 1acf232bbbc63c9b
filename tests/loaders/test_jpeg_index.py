"""What the native operator has learnt of a JPEG changes its speed, never its pixels or errors."""

from __future__ import annotations

import io

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.batches import Batches
from fastsemi.loaders.engines import native_operator
from fastsemi.loaders.engines.jpeg_index import JpegIndex
from fastsemi.loaders.engines.native import NativeEngine
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.settings import DataConfig, LoaderConfig

MISSING = native_operator.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SIDE, ANY, ROOM = 24, 10**9, 2**20
WIDTH, HEIGHT = 333, 251


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / 40
    waves = np.stack([np.sin(x + c) * np.cos(y - c) * 70 + 120 for c in (0, 1, 2)], -1)
    return Image.fromarray((waves + rng.normal(0, 9, waves.shape)).clip(0, 255).astype(np.uint8))


def save(image: Image.Image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


IMAGE = picture(WIDTH, HEIGHT)
KINDS = {
    **{
        s: simplejpeg.encode_jpeg(np.asarray(IMAGE), 90, colorsubsampling=s)
        for s in ("444", "422", "420", "440", "411")
    },
    "grey": save(IMAGE.convert("L"), quality=90),
    "restarts": save(IMAGE, quality=90, restart_marker_blocks=7),
    "restart at every point": save(IMAGE, quality=90, restart_marker_blocks=4),
    "restart rows": save(IMAGE, quality=90, restart_marker_rows=1, subsampling=0),
    "best": save(IMAGE, quality=100, subsampling=0),
    "black and white": save(IMAGE.convert("1").convert("RGB"), quality=100),
    "progressive": save(IMAGE, quality=90, progressive=True),
    "cmyk": save(IMAGE.convert("CMYK"), quality=90),
}
FILES = list(KINDS.values())


def room(count: int, memory: int = ROOM) -> JpegIndex:
    index = JpegIndex.create(np.full((count, 2), (WIDTH, HEIGHT), np.int32), memory)
    assert index is not None
    return index


def windows_of(count: int, seed: int, views: int = 2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, (WIDTH, HEIGHT), (views, count, 2))
    size = rng.integers(1, (WIDTH, HEIGHT) - corner + 1)
    return np.concatenate([corner, size], -1).astype(np.int32)


def decode(
    files: list[bytes], windows: np.ndarray, index: JpegIndex | None, ids=None, threads: int = 1
) -> tuple[np.ndarray, list[str | None]]:
    out = np.zeros((*windows.shape[:2], SIDE, SIDE, 3), np.uint8)
    op = native_operator.Operator(threads, index=index)
    ids = np.arange(len(files)) if ids is None else np.asarray(ids)
    flips, sizes = np.zeros(windows.shape[:2], bool), np.zeros((len(files), 2), np.int32)
    errors = op.wait(op.submit(files, windows, flips, out, ANY, sizes, ids), 60)
    op.close()
    return out, errors


def learnt(files: list[bytes], memory: int = ROOM) -> JpegIndex:
    """An index that knows all of some files."""
    index = room(len(files), memory)
    decode(files, np.tile(np.array([0, 0, WIDTH, HEIGHT], np.int32), (1, len(files), 1)), index)
    return index


def words_of(index: JpegIndex, i: int) -> np.ndarray:
    return index.words[index.starts[i] : index.starts[i + 1]]


def known(index: JpegIndex, i: int) -> int:
    return int(words_of(index, i)[1]) & 0xFFFF


def signed(index: JpegIndex, i: int) -> None:
    """Give changed words a check that holds, as `kernels/csrc/jpeg/entry_points.cpp` computes it."""
    words = [int(word) for word in words_of(index, i)]
    count, mask = words[1] & 0xFFFF, 2**64 - 1
    state = count
    for word in [*words[2 : 2 + count], words[0]]:
        state = (state ^ word) * 0x9E3779B97F4A7C15 & mask
        state = (state << 29 | state >> 35) & mask
    words_of(index, i)[1] = (state ^ state >> 32) & (mask ^ 0xFFFF) | count


@pytest.mark.parametrize("memory", (ROOM, 2000))
def test_pixels_are_the_same_however_much_is_known(memory):
    """Windows anywhere, from nothing known to all; a small memory has fewer points."""
    index = room(len(FILES), memory)
    before = np.zeros(len(FILES), int)
    for seed in range(8):
        windows = windows_of(len(FILES), seed)
        expected, wrong = decode(FILES, windows, None)
        out, errors = decode(FILES, windows, index)
        np.testing.assert_array_equal(out, expected)
        assert errors == wrong == [None] * len(FILES)
        now = np.array([known(index, i) for i in range(len(FILES))])
        assert (now >= before).all()
        before = now
    others = np.array([kind in ("progressive", "cmyk") for kind in KINDS])
    assert (before[others] == 0).all() and (before[~others] >= (30 if memory == ROOM else 5)).all()


def test_what_lies_above_the_windows_is_not_decoded():
    """A DC prediction changed in a point shows in what is decoded from there, and nowhere else."""
    (data,) = files = [KINDS["grey"]]
    columns = -(-WIDTH // 8)
    index = learnt(files)
    spacing = max(4, columns * -(-HEIGHT // 8) // (len(words_of(index, 0)) - 1) + 1)
    below = np.array([[[0, 160, WIDTH, 40]]], np.int32)
    expected, _ = decode(files, below, None)
    first_needed = 20 * columns // spacing  # the point before row 160
    for number, same in ((first_needed - 1, True), (first_needed, False)):
        index = learnt(files)
        words_of(index, 0)[1 + number] ^= np.uint64(32)
        signed(index, 0)
        out, errors = decode([data], below, index)
        assert errors == [None]
        assert np.array_equal(out, expected) == same, number


def test_words_that_their_check_does_not_fit_are_learnt_anew():
    files = [KINDS["420"]]
    windows, whole = windows_of(1, 5), learnt(files)
    expected, _ = decode(files, windows, None)
    for at in (0, 1, 2, 9, len(words_of(whole, 0)) - 3):
        index = learnt(files)
        words_of(index, 0)[at] ^= np.uint64(1 << 40)
        out, errors = decode(files, windows, index)
        np.testing.assert_array_equal(out, expected)
        assert errors == [None]
        count = known(index, 0)
        assert 0 < count
        np.testing.assert_array_equal(words_of(index, 0)[2 : 2 + count], words_of(whole, 0)[2 : 2 + count])


def test_another_file_in_its_place_is_noticed_whatever_its_length_and_time():
    """One bit of the old file's data differs; then another picture; then the old one again."""
    first = KINDS["420"]
    changed = bytearray(first)
    at = first.index(b"\xff\xda") + 14 + 200
    while changed[at] in (0, 0xFF, 0xFE) or changed[at - 1] == 0xFF:
        at += 1
    changed[at] ^= 1
    index = learnt([first])
    for data in (bytes(changed), save(picture(WIDTH, HEIGHT, 1), quality=90), first):
        for seed in (1, 2):
            out, errors = decode([data], windows_of(1, seed), index)
            expected, wrong = decode([data], windows_of(1, seed), None)
            assert errors == wrong
            if errors == [None]:
                np.testing.assert_array_equal(out, expected)


def test_forged_points_lead_nowhere_outside_of_the_data():
    """Random words with a check that holds: wrong pixels or libjpeg's, never a crash or a hang."""
    rng = np.random.default_rng(0)
    index = learnt(FILES)
    for seed in range(24):
        for i in range(len(FILES)):
            words = words_of(index, i)
            count = known(index, i)
            bits = rng.integers(0, (2**28, 8 * len(FILES[i]), 2**18)[seed % 3], count, np.uint64)
            words[2 : 2 + count] = bits << np.uint64(36) | rng.integers(0, 2**36, count, np.uint64)
            if count:
                signed(index, i)
        _, errors = decode(FILES, windows_of(len(FILES), seed), index)
        assert errors == [None] * len(FILES)
        assert seed or not np.array_equal(index.words, learnt(FILES).words)


def test_broken_files_have_the_same_errors_and_pixels():
    """Each is decoded three times by one index, which knew the whole file at first."""
    rng = np.random.default_rng(2)
    names = [name for name in KINDS if name not in ("progressive", "cmyk")]
    whole, files = [], []
    for i in range(60):
        data = bytearray(KINDS[names[i % len(names)]])
        whole.append(bytes(data))
        if i % 4 == 0:
            data = data[: rng.integers(len(data) // 4, len(data))]
        else:
            data[rng.integers(len(data) // 4, len(data))] = rng.integers(0, 256)
        files.append(bytes(data))
    index = learnt(whole)
    failed = 0
    for seed in range(3):
        windows = windows_of(len(files), seed)
        expected, wrong = decode(files, windows, None)
        out, errors = decode(files, windows, index)
        assert errors == wrong
        good = np.array([error is None for error in errors])
        np.testing.assert_array_equal(out[:, good], expected[:, good])
        failed += np.sum(~good)
    assert 15 <= failed < 3 * len(files)


def test_one_image_in_many_threads_at_once():
    files = [KINDS["420"]] * 48
    index, ids = room(1), np.zeros(48, np.int64)
    windows = windows_of(48, 7)
    expected, _ = decode(files, windows, None)
    for _ in range(3):
        out, errors = decode(files, windows, index, ids, threads=8)
        np.testing.assert_array_equal(out, expected)
        assert errors == [None] * 48


@pytest.mark.parametrize("kind", ("folder", "tar"))
def test_the_engine_learns_and_its_pixels_stay(kind, tmp_path, contract, monkeypatch):
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path / "cache"))
    for name in ("420", "grey", "restarts", "progressive"):
        contract.save(tmp_path / "images" / "a", f"{name}.jpg", KINDS[name])
    source = contract.pack(kind, contract.open_images(tmp_path / "images"), tmp_path)
    plans = [contract.stream(source.index, seed=seed).plan(0, 0) for seed in range(3)]
    shape = (2, len(source), contract.SIZE, contract.SIZE, 3)
    pixels = []
    for gb in (0.0, 0.001):
        engine = NativeEngine(source, contract.SIZE, 2, 10**7, int(gb * 2**30))
        slots = [torch.zeros(shape, dtype=torch.uint8) for _ in plans]
        for plan, slot in zip(plans, slots, strict=True):
            assert engine.submit(plan, slot).result(60) == [None] * len(source)
        assert (engine.index is not None) == (gb > 0)
        if engine.index is not None:
            assert [known(engine.index, i) > 0 for i in range(4)].count(True) == 3
        engine.close()
        pixels.append(torch.stack(slots))
    assert torch.equal(*pixels)


def test_settings_reach_the_engine(tmp_path, contract, monkeypatch):
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path / "cache"))
    contract.save(tmp_path / "images" / "a", "1.jpg", KINDS["420"])
    source = contract.open_images(tmp_path / "images")
    images = ImageSet(source.index, source, np.arange(1))
    for gb in (0.0, 1.0):
        batches = Batches(DataConfig(), LoaderConfig(engine="native", threads=1, jpeg_index_gb=gb))
        assert (batches.engine(images).inner.index is not None) == (gb > 0)
        batches.close()


def test_room_is_shared_out_by_the_pixels():
    sizes = np.array([[500, 375], [1600, 1200], [32, 32], [0, 0], [60_000, 60_000]], np.int32)
    index = JpegIndex.create(sizes, 2**30)
    assert index is not None
    np.testing.assert_array_equal(np.diff(index.starts), [192 + 2, 1875 + 2, 0, 0, 0xFFFF + 2])
    few = JpegIndex.create(sizes[:2], 1000)
    assert few is not None and few.words.nbytes <= 1000
    np.testing.assert_array_equal(np.diff(few.starts), [11 + 2, 109 + 2])
    for memory, of in ((0, sizes), (20, sizes), (2**30, sizes[2:4]), (2**30, sizes[:0])):
        assert JpegIndex.create(of, memory) is None


def test_ids_and_memory_must_fit():
    index = room(1)
    windows = windows_of(1, 0)
    for ids in ([1], [-1], [0, 0], []):
        with pytest.raises(ValueError, match="ids must be"):
            decode([KINDS["420"]], windows, index, np.array(ids, np.int64))
    for starts in ([0, 10**6], [-1, 5], [9, 3]):
        with pytest.raises(ValueError, match="ascend"):
            decode([KINDS["420"]], windows, JpegIndex(index.words, np.array(starts)))


@pytest.mark.parametrize("value", (-1.0, float("inf"), float("nan")))
def test_an_impossible_memory_is_refused(value):
    with pytest.raises(UserError, match=r"loader\.jpeg_index_gb is .*; it must be 0 \(none\) or more"):
        LoaderConfig(jpeg_index_gb=value)
