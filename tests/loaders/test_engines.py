"""The contract: every engine over every source it takes, the same plan, the same pixels."""

import gc
import io
import os
import tarfile
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from fastsemi.errors import BadImageError, UserError
from fastsemi.loaders.beton import Encoding, write_beton
from fastsemi.loaders.engines import select
from fastsemi.loaders.engines.select import create_engine
from fastsemi.loaders.plan import AugmentConfig, View
from fastsemi.loaders.prefetch import Prefetcher
from fastsemi.loaders.sources.select import open_source
from fastsemi.loaders.stream import Stream, evaluation_batches

SIZE = 48
BOUND = 1.5  # mean absolute difference from the reference, of 255
SOURCES = ("folder", "tar", "beton", "beton_raw", "parquet")
ENGINES = ("reference", "native", "thread_pool", "dali", "ffcv")
UNAVAILABLE = select.unavailable()


def _case(engine, source):
    marks = []
    if engine in UNAVAILABLE:
        marks.append(pytest.mark.skip(reason=UNAVAILABLE[engine]))
    return pytest.param(engine, source, marks=marks, id=f"{engine}-{source}")


# FFCV reads nothing but .beton
CASES = [_case(e, s) for e in ENGINES for s in SOURCES if e != "ffcv" or s.startswith("beton")]
ONE_SOURCE = [_case(e, "beton" if e == "ffcv" else "folder") for e in ENGINES]


def _save(folder, name, image, **options):
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **options)


def _open(path, what=""):
    return open_source(path, what, has_classes=True, max_pixels=10**7)


def _pack(kind, folder, out):
    """The images of a folder source in another kind of source, same order."""
    if kind == "folder":
        return folder
    index, ids = folder.index, range(len(folder))
    if kind.startswith("beton"):
        encoding = Encoding("raw" if kind == "beton_raw" else "jpeg", max_side=0)
        write_beton(out / f"{kind}.beton", folder, index, encoding=encoding, max_pixels=10**7)
        return _open(out, f"{kind}.beton")
    contents = [folder.read_one(i) for i in ids]
    if kind == "tar":
        with tarfile.open(out / "a.tar", "w") as tar:
            for i, content in enumerate(contents):
                suffix = os.path.splitext(index.path(i))[1]
                for name, data in ((f"{i:04}{suffix}", content), (f"{i:04}.cls", b"%d" % index.labels[i])):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return _open(out, "a.tar")
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'fastsemi[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = pa.array([{"bytes": c} for c in contents], pa.struct([("bytes", pa.binary())]))
    table = pa.table({"image": images, "label": pa.array(index.labels)})
    parquet.write_table(table, out / "a.parquet", row_group_size=30, compression="none", use_dictionary=False)
    return _open(out, "a.parquet")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, photo):
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
        _save(root / "gif_named_jpeg", f"{i}.JPEG", image, format="GIF")
        _save(root / "deep", f"{i}.png", image.convert("I").point(lambda p: p * 3).convert("I;16"))
        _save(root / "palette", f"{i}.png", image.quantize(64))
        _save(root / "alpha", f"{i}.png", image.convert("RGBA"))
        _save(root / "webp", f"{i}.webp", image, lossless=True)
        _save(root / "bmp", f"{i}.bmp", image)
        _save(root / "tiff", f"{i}.tif", image)
        _save(root / "tiny", f"{i}.png", photo(3 + i, 2 + i, i))
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated: ignored, as torchvision's ImageFolder does
        _save(root / "exif", f"{i}.jpg", image, quality=92, exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        return _open(root)


@pytest.fixture(scope="module")
def sources(folder, tmp_path_factory):
    """The function `sources(kind)`; each kind is packed once."""
    packed = {}

    def get(kind):
        if kind not in packed:
            packed[kind] = _pack(kind, folder, tmp_path_factory.mktemp(kind))
        return packed[kind]

    return get


def _load(name, source, plan, threads=2):
    engine = create_engine(name, source, image_size=SIZE, threads=threads, max_pixels=10**7)
    slot = torch.full((len(plan.views), len(plan.ids), SIZE, SIZE, 3), 77, dtype=torch.uint8)
    try:
        errors = engine.submit(plan, slot).result(60)
    finally:
        engine.close()
    assert errors == [None] * len(plan.ids)
    return slot.numpy()


def _stream(index):
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    return Stream(index, np.arange(len(index)), len(index), 1, views, None, 0, SIZE, "unlabelled")


def _whole(index, count=999):
    return next(evaluation_batches(index, np.arange(min(count, len(index))), count, 1.0))


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_pixels_agree_with_the_reference(name, kind, sources, folder):
    source = sources(kind)
    for plan in (
        _stream(source.index).plan(0, 0),
        next(evaluation_batches(source.index, np.arange(len(source)), 999, 0.875)),
    ):
        expected = _load("reference", source, plan).astype(np.float32)
        difference = np.abs(_load(name, source, plan) - expected)
        for label, what in enumerate(folder.index.classes):
            assert difference[:, plan.labels == label].mean() <= BOUND, what


@pytest.mark.parametrize(("name", "kind"), [c for c in CASES if c.values[1] in ("tar", "parquet")])
def test_the_same_files_give_the_same_bytes_from_any_source(name, kind, sources, folder):
    source = sources(kind)
    plan, same = _stream(folder.index).plan(0, 0), _stream(source.index).plan(0, 0)
    for mine, theirs in ((plan.ids, same.ids), (plan.labels, same.labels), (plan.windows, same.windows)):
        np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(plan.flips, same.flips)
    np.testing.assert_array_equal(_load(name, source, same), _load(name, folder, plan))


@pytest.mark.parametrize(("name", "kind"), ONE_SOURCE)
def test_pixels_do_not_depend_on_threads_or_batches(name, kind, sources):
    source = sources(kind)
    index, stream = source.index, _stream(source.index)
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


@pytest.mark.parametrize(("name", "kind"), ONE_SOURCE)
def test_any_number_of_ranks_loads_the_same_samples_with_the_same_pixels(name, kind, sources):
    """Four micro-batches in each of two global batches, dealt to 1, 2 and 4 ranks with an engine each."""
    source = sources(kind)
    stream = _stream(source.index)
    stream = Stream(stream.index, stream.ids, 40, 4, stream.views, None, 3, SIZE, "unlabelled")
    results = []
    for world in (1, 2, 4):
        seen = {}
        for rank in range(world):
            plans = [stream.plan(step, micro) for step in range(2) for micro in range(rank, 4, world)]
            engine = create_engine(name, source, image_size=SIZE, threads=1 + rank % 2, max_pixels=10**7)
            with Prefetcher(engine, plans, timeout=60) as batches:
                for batch in batches:
                    for b, i in enumerate(batch.plan.ids.tolist()):
                        assert i not in seen
                        seen[i] = batch.images[:, b].clone()
            engine.close()
        results.append(seen)
    assert len(results[0]) == 80
    for seen in results[1:]:
        assert seen.keys() == results[0].keys()
        assert all(torch.equal(pixels, results[0][i]) for i, pixels in seen.items())


@pytest.mark.parametrize(("name", "kind"), ONE_SOURCE)
def test_flips_mirror(name, kind, sources):
    source = sources(kind)
    plan = _whole(source.index)
    straight = _load(name, source, plan)
    plan.views[0].flip[:] = True
    np.testing.assert_array_equal(_load(name, source, plan), straight[:, :, :, ::-1])


@pytest.mark.parametrize(("name", "kind"), ONE_SOURCE)
def test_many_batches_under_way_come_in_order(name, kind, sources):
    source = sources(kind)
    stream = _stream(source.index)
    cut = Stream(stream.index, stream.ids, 16, 1, stream.views, None, 0, SIZE, "unlabelled")
    plans = [cut.plan(step, 0) for step in range(12)] + [_whole(source.index, 5)]  # other shapes at the end
    expected = [_load("reference", source, plan).astype(np.float32) for plan in plans]
    engine = create_engine(name, source, image_size=SIZE, threads=2, max_pixels=10**7)
    with Prefetcher(engine, plans, depth=5, timeout=60) as batches:
        for plan, batch, pixels in zip(plans, batches, expected, strict=True):
            assert batch.plan is plan
            assert np.abs(batch.images.numpy() - pixels).mean() <= BOUND
    engine.close()


@pytest.mark.parametrize(("name", "kind"), [c for c in CASES if c.values[1] != "beton_raw"])
def test_broken_images_give_an_error_with_their_path(name, kind, tmp_path, photo):
    for i in range(6):
        _save(tmp_path / "set" / "a", f"{i}.jpg", photo(60, 50, i))
    source = _pack(kind, _open(tmp_path / "set"), tmp_path)
    for i in (1, 4):
        if kind == "folder":
            (tmp_path / "set" / "a" / f"{i}.jpg").write_bytes(b"no image at all")
            continue
        file, offset, _ = source.location(i)
        with open(file, "r+b") as damaged:
            damaged.seek(offset)
            damaged.write(b"?" * 200)
    engine = create_engine(name, source, image_size=SIZE, threads=2, max_pixels=10**6)
    plan = _whole(source.index)
    slot = torch.zeros((1, 6, SIZE, SIZE, 3), dtype=torch.uint8)
    for _ in range(3):  # the engine goes on after an error
        errors = engine.submit(plan, slot).result(60)
        for i, error in enumerate(errors):
            if i in (1, 4):
                assert isinstance(error, BadImageError) and error.path == source.name(i)
            else:
                assert error is None and slot[0, i].float().std() > 5
    engine.close()


@pytest.mark.parametrize("name", [c for c in ENGINES if c != "ffcv"])
def test_truncated_and_changed_files_give_an_error_with_their_path(name, tmp_path, photo):
    if name in UNAVAILABLE:
        pytest.skip(UNAVAILABLE[name])
    for i in range(4):
        _save(tmp_path / "set" / "a", f"{i}.jpg", photo(60, 50, i))
    source = _open(tmp_path / "set")
    truncated = tmp_path / "set" / "a" / "1.jpg"
    truncated.write_bytes(truncated.read_bytes()[:700])
    (tmp_path / "set" / "a" / "2.jpg").unlink()
    photo(61, 50).save(tmp_path / "set" / "a" / "3.jpg")  # another size than indexed
    engine = create_engine(name, source, image_size=SIZE, threads=2, max_pixels=10**6)
    errors = engine.submit(
        _whole(source.index), torch.zeros((1, 4, SIZE, SIZE, 3), dtype=torch.uint8)
    ).result(30)
    engine.close()
    assert errors[0] is None
    for i in (1, 2, 3):
        assert str(tmp_path / "set" / "a" / f"{i}.jpg") in str(errors[i])
    assert "reindex" in str(errors[3])


@pytest.mark.parametrize(("name", "kind"), ONE_SOURCE)
def test_oversized_images_are_refused(name, kind, tmp_path, photo):
    _save(tmp_path / "set" / "a", "0.png", photo(100, 100))
    source = _pack(kind, _open(tmp_path / "set"), tmp_path)
    engine = create_engine(name, source, image_size=SIZE, threads=1, max_pixels=9_999)
    slot = torch.zeros((1, 1, SIZE, SIZE, 3), dtype=torch.uint8)
    errors = engine.submit(_whole(source.index), slot).result(30)
    engine.close()
    assert "max_pixels" in str(errors[0])


def _resident():
    """Memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


def _closing(case):
    """One source for each engine is enough for every day."""
    marks = [] if case.values in [c.values for c in ONE_SOURCE] else [pytest.mark.slow]
    return pytest.param(*case.values, id=case.id, marks=[*case.marks, *marks])


@pytest.mark.parametrize(("name", "kind"), [_closing(case) for case in CASES])
def test_closing_leaves_nothing(name, kind, sources):
    opened = sources(kind)
    index = opened.index
    stream = _stream(index)
    cut = Stream(index, stream.ids, 8, 1, stream.views, None, 0, SIZE, "unlabelled")
    plans = [cut.plan(step, 0) for step in range(4)]

    def cycles(count):
        for cycle in range(count):
            source = type(opened)(index)
            engine = create_engine(name, source, image_size=16, threads=4, max_pixels=10**7)
            with Prefetcher(engine, iter(plans), depth=2, timeout=60) as batches:
                if cycle % 3:  # else closed before anything came
                    next(batches)
            engine.close()
        del source, engine, batches
        gc.collect()
        return threading.active_count(), len(os.listdir("/proc/self/fd")), _resident()

    threads, files, memory = cycles(30)
    after = cycles(170)
    assert (after[0], after[1]) == (threads, files)
    assert after[2] - memory < 30


def test_an_unknown_engine_names_the_known_ones(folder):
    with pytest.raises(UserError, match="native"):
        create_engine("turbo", folder, image_size=8, threads=1, max_pixels=1)


def test_auto_says_what_it_chose_and_why(folder, caplog, monkeypatch):
    select._say.cache_clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with caplog.at_level("INFO"):
        for _ in range(2):
            engine = create_engine("auto", folder, image_size=8, threads=1, max_pixels=10**6)
            engine.close()
    assert [r.getMessage() for r in caplog.records if "loader's engine" in r.getMessage()] == [
        "the loader's engine is native: there is no CUDA GPU"
    ]
