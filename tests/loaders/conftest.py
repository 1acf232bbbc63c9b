"""What the contract tests of the engines share: which engine reads which source, and files of every kind.

A test with the arguments `engine` and `kind` runs for every engine on every source that it reads, or on those
that the marker `sources` names.
"""

from __future__ import annotations

import io
import os
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.sources.open import open_source
from fastsemi.loaders.stream import Stream, evaluation_batches
from fastsemi.loaders.write_beton import Encoding, write_beton

SIZE = 48
SOURCES = ("folder", "tar", "beton", "beton_raw", "parquet")
ENGINES = ("reference", "native", "thread_pool", "dali", "ffcv")


def pytest_configure(config):
    config.addinivalue_line("markers", "sources(*kinds): sources of a test with `engine` and `kind`")


def pytest_generate_tests(metafunc):
    if {"engine", "kind"} <= set(metafunc.fixturenames):
        marker = metafunc.definition.get_closest_marker("sources")
        kinds = marker.args if marker else SOURCES
        cases = [(e, k) for e in ENGINES for k in kinds if e != "ffcv" or k.startswith("beton")]
        metafunc.parametrize(("engine", "kind"), cases)


def save(folder, name, image, **options):
    """Write an image, given as such or as the bytes of its file."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        (folder / name).write_bytes(image)
    else:
        image.save(folder / name, **options)


def open_images(path, what=""):
    return open_source(path, what, has_classes=True, max_pixels=10**7)


def pack(kind, folder, out):
    """The images of a folder source in another kind of source, same order."""
    if kind == "folder":
        return folder
    index, ids = folder.index, range(len(folder))
    if kind.startswith("beton"):
        encoding = Encoding("raw" if kind == "beton_raw" else "jpeg", max_side=0)
        write_beton(out / f"{kind}.beton", folder, index, encoding=encoding, max_pixels=10**7)
        return open_images(out, f"{kind}.beton")
    contents = [folder.read_one(i) for i in ids]
    if kind == "tar":
        with tarfile.open(out / "a.tar", "w") as tar:
            for i, content in enumerate(contents):
                suffix = os.path.splitext(index.path(i))[1]
                for name, data in ((f"{i:04}{suffix}", content), (f"{i:04}.cls", b"%d" % index.labels[i])):
                    member = tarfile.TarInfo(name)
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
        return open_images(out, "a.tar")
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'fastsemi[parquet]'")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = pa.array([{"bytes": c} for c in contents], pa.struct([("bytes", pa.binary())]))
    table = pa.table({"image": images, "label": pa.array(index.labels)})
    parquet.write_table(table, out / "a.parquet", row_group_size=30, compression="none", use_dictionary=False)
    return open_images(out, "a.parquet")


def load(engine, source, plan, threads=2):
    """Views [V, B, S, S, 3] of a batch whose images are all whole."""
    running = create_engine(engine, source, image_size=SIZE, threads=threads, max_pixels=10**7)
    slot = torch.full((len(plan.views), len(plan.ids), SIZE, SIZE, 3), 77, dtype=torch.uint8)
    try:
        errors = running.submit(plan, slot).result(60)
    finally:
        running.close()
    assert errors == [None] * len(plan.ids)
    return slot.numpy()


def stream(index, batch=None, micro_batches=1, seed=0):
    """Weak and strong views of an index; by default all of it is one batch."""
    views = {View.WEAK: AugmentConfig(), View.STRONG: AugmentConfig()}
    ids = np.arange(len(index))
    return Stream(index, ids, batch or len(ids), micro_batches, views, None, seed, SIZE, "unlabelled")


def whole(index, count=999):
    """One view of each image: all of it."""
    return next(evaluation_batches(index, np.arange(min(count, len(index))), count, 1.0))


def cmyk(image, ycck):
    """A JPEG of four colours; its Adobe marker says whether they are CMYK or YCCK."""
    buffer = io.BytesIO()
    image.convert("CMYK").save(buffer, "JPEG", quality=90)
    data = bytearray(buffer.getvalue())
    data[data.index(b"Adobe") + 11] = 2 if ycck else 0
    return bytes(data)


@pytest.fixture(scope="session")
def contract():
    """The helpers of this file, by name."""
    helpers = (save, open_images, pack, load, stream, whole)
    return SimpleNamespace(SIZE=SIZE, **{f.__name__: f for f in helpers})


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory, photo):
    """A folder source with every kind of file that ImageNet and its like hold, three of each."""
    simplejpeg = pytest.importorskip("simplejpeg")
    root = tmp_path_factory.mktemp("kinds")
    for i in range(3):
        image = photo(150 + 17 * i, 101 + 13 * i, i)
        for subsampling in ("444", "422", "420", "411"):
            data = simplejpeg.encode_jpeg(np.asarray(image), 92, colorsubsampling=subsampling)
            save(root / f"jpeg_{subsampling}", f"{i}.jpg", data)
        save(root / "progressive", f"{i}.jpg", image, quality=90, progressive=True)
        save(root / "grey", f"{i}.jpg", image.convert("L"), quality=90)
        save(root / "cmyk", f"{i}.jpg", cmyk(image, ycck=False))
        save(root / "ycck", f"{i}.jpg", cmyk(image, ycck=True))
        save(root / "png", f"{i}.png", image)
        save(root / "png_named_jpeg", f"{i}.JPEG", image, format="PNG")
        save(root / "gif_named_jpeg", f"{i}.JPEG", image, format="GIF")
        save(root / "deep", f"{i}.png", image.convert("I").point(lambda p: p * 3).convert("I;16"))
        save(root / "palette", f"{i}.png", image.quantize(64))
        save(root / "alpha", f"{i}.png", image.convert("RGBA"))
        save(root / "webp", f"{i}.webp", image, lossless=True)
        save(root / "bmp", f"{i}.bmp", image)
        save(root / "tiff", f"{i}.tif", image)
        save(root / "tiny", f"{i}.png", photo(3 + i, 2 + i, i))
        exif = Image.Exif()
        exif[0x0112] = 6  # rotated: ignored, as torchvision's ImageFolder does
        save(root / "exif", f"{i}.jpg", image, quality=92, exif=exif)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        return open_images(root)


@pytest.fixture(scope="module")
def sources(every_kind, tmp_path_factory):
    """The function `sources(kind)`: the files of `every_kind` in a kind of source, packed once."""
    packed = {}

    def get(kind):
        if kind not in packed:
            packed[kind] = pack(kind, every_kind, tmp_path_factory.mktemp(kind))
        return packed[kind]

    return get
