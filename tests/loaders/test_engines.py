"""The contract: every engine, the same plan, the same pixels."""

import threading

import numpy as np
import pytest
import torch
from PIL import Image

from fastsemi.errors import UserError
from fastsemi.loaders.engines.select import create_engine
from fastsemi.loaders.index import build_index
from fastsemi.loaders.plan import AugmentConfig, View
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import Stream, evaluation_batches

ENGINES = ("reference", "native", "thread_pool")
SIZE = 48
BOUND = 1.5  # mean absolute difference from the reference, of 255


def _save(folder, name, image, **options):
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


@pytest.fixture(scope="module")
def kinds(tmp_path_factory, photo):
    """Every kind of file that ImageNet and its like hold, five of each."""
    root = tmp_path_factory.mktemp("kinds")
    for i in range(5):
        image = photo(150 + 17 * i, 101 + 13 * i, i)
        for subsampling in (0, 1, 2):
            _save(root / f"jpeg_{subsampling}", f"{i}.jpg", image, quality=92, subsampling=subsampling)
        _save(root / "progressive", f"{i}.jpg", image, quality=90, progressive=True)
        _save(root / "grey", f"{i}.jpg", image.convert("L"), quality=90)
        _save(root / "cmyk", f"{i}.jpg", image.convert("CMYK"), quality=90)
        _save(root / "png", f"{i}.png", image)
        _save(root / "png_named_jpeg", f"{i}.JPEG", image, format="PNG")
        _save(root / "palette", f"{i}.png", image.quantize(64))
        _save(root / "alpha", f"{i}.png", image.convert("RGBA"))
        _save(root / "webp", f"{i}.webp", image, lossless=True)
        _save(root / "bmp", f"{i}.bmp", image)
        _save(root / "tiny", f"{i}.png", photo(3 + i, 2 + i, i))
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated: ignored, as torchvision's ImageFolder does
        _save(root / "exif", f"{i}.jpg", image, quality=92, exif=exif)
    index = build_index(root, has_classes=True, cache_dir=tmp_path_factory.mktemp("cache"))
    return index, FolderSource(index)


def _load(name, source, plan, threads=2):
    engine = create_engine(name, source, image_size=SIZE, threads=threads, max_pixels=10**7)
    slot = torch.full((len(plan.views), len(plan.ids), SIZE, SIZE, 3), 77, dtype=torch.uint8)
    try:
        errors = engine.submit(plan, slot).result(30)
    finally:
        engine.close()
    assert errors == [None] * len(plan.ids)
    return slot.numpy()


def _stream(index):
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    return Stream(index, np.arange(len(index)), len(index), 1, views, None, 0, SIZE, "unlabelled")


@pytest.mark.parametrize("name", ENGINES)
def test_pixels_agree_with_the_reference(name, kinds):
    index, source = kinds
    for plan in (
        _stream(index).plan(0, 0),
        next(evaluation_batches(index, np.arange(len(index)), 999, 0.875)),
    ):
        expected = _load("reference", source, plan).astype(np.float32)
        difference = np.abs(_load(name, source, plan) - expected)
        for label, kind in enumerate(index.classes):
            assert difference[:, plan.labels == label].mean() <= BOUND, kind


@pytest.mark.parametrize("name", ENGINES)
def test_pixels_do_not_depend_on_threads_or_batches(name, kinds):
    index, source = kinds
    stream = _stream(index)
    plan = stream.plan(0, 0)
    one = _load(name, source, plan, threads=1)
    np.testing.assert_array_equal(one, _load(name, source, plan, threads=8))
    order = plan.ids.argsort()
    cut = Stream(index, stream.ids, len(index), 5, stream.views, None, 0, SIZE, "unlabelled")
    parts = [cut.plan(0, m) for m in range(5)]
    assert sorted(np.concatenate([p.ids for p in parts])) == sorted(plan.ids)
    pieces = np.concatenate([_load(name, source, p) for p in parts], axis=1)
    ids = np.concatenate([p.ids for p in parts])
    np.testing.assert_array_equal(pieces[:, ids.argsort()], one[:, order])


@pytest.mark.parametrize("name", ENGINES)
def test_flips_mirror(name, kinds):
    index, source = kinds
    plan = next(evaluation_batches(index, np.arange(len(index)), 999, 1.0))
    straight = _load(name, source, plan)
    plan.views[0].flip[:] = True
    np.testing.assert_array_equal(_load(name, source, plan), straight[:, :, :, ::-1])


@pytest.mark.parametrize("name", ENGINES)
def test_broken_files_give_an_error_with_their_path(name, tmp_path, photo):
    for i in range(4):
        _save(tmp_path / "set" / "a", f"{i}.jpg", photo(60, 50, i))
    index = build_index(tmp_path / "set", has_classes=True, cache_dir=tmp_path / "cache")
    truncated = tmp_path / "set" / "a" / "1.jpg"
    truncated.write_bytes(truncated.read_bytes()[:300])
    (tmp_path / "set" / "a" / "2.jpg").write_bytes(b"no image at all")
    photo(61, 50).save(tmp_path / "set" / "a" / "3.jpg")  # another size than indexed
    engine = create_engine(name, FolderSource(index), image_size=SIZE, threads=2, max_pixels=10**6)
    plan = next(evaluation_batches(index, np.arange(4), 4, 1.0))
    slot = torch.zeros((1, 4, SIZE, SIZE, 3), dtype=torch.uint8)
    errors = engine.submit(plan, slot).result(30)
    engine.close()
    assert errors[0] is None
    for i in (1, 2, 3):
        assert str(tmp_path / "set" / "a" / f"{i}.jpg") in str(errors[i])
    assert "reindex" in str(errors[3])


@pytest.mark.parametrize("name", ENGINES)
def test_oversized_images_are_refused(name, tmp_path, photo):
    _save(tmp_path / "set" / "a", "0.png", photo(100, 100))
    index = build_index(tmp_path / "set", has_classes=True, cache_dir=tmp_path / "cache")
    engine = create_engine(name, FolderSource(index), image_size=SIZE, threads=1, max_pixels=9_999)
    plan = next(evaluation_batches(index, np.arange(1), 1, 1.0))
    errors = engine.submit(plan, torch.zeros((1, 1, SIZE, SIZE, 3), dtype=torch.uint8)).result(30)
    engine.close()
    assert "max_pixels" in str(errors[0])


@pytest.mark.parametrize("name", ENGINES)
def test_closing_leaves_no_thread(name, kinds):
    index, source = kinds
    before = threading.active_count()
    for _ in range(20):
        engine = create_engine(name, source, image_size=SIZE, threads=4, max_pixels=10**7)
        plan = next(evaluation_batches(index, np.arange(8), 8, 1.0))
        engine.submit(plan, torch.zeros((1, 8, SIZE, SIZE, 3), dtype=torch.uint8))
        engine.close()
    assert threading.active_count() == before


def test_an_unknown_engine_names_the_known_ones(kinds):
    with pytest.raises(UserError, match="native"):
        create_engine("turbo", kinds[1], image_size=8, threads=1, max_pixels=1)
