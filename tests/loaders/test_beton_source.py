"""The `.beton` writer and source."""

import io
import os

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.common.job import Job
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.engines.reference import decode_rgb
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.index.labels import select_labelled
from fastsemi.loaders.sources.beton import BetonSource
from fastsemi.loaders.sources.beton_format import read_beton
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.sources.open import open_source
from fastsemi.loaders.write_beton import Encoding, write_beton


@pytest.fixture
def folder(tmp_path, photo):
    """Two classes: a large and a small JPEG, a PNG, a CMYK and a grey JPEG each."""
    for label, name in enumerate(("cat", "dog")):
        place = tmp_path / "train" / name
        place.mkdir(parents=True)
        photo(160, 120, label).save(place / "0.jpg", quality=90)
        photo(60, 80, label).save(place / "1.jpg", quality=90, progressive=True)
        photo(50, 40, label).save(place / "2.png")
        photo(30, 40, label).convert("CMYK").save(place / "3.jpg")
        photo(30, 41, label).convert("L").save(place / "4.jpg")
    return FolderSource(build_index(tmp_path / "train", has_classes=True))


def write(folder, out, bad=None, **options):
    return write_beton(
        out, folder, folder.index, encoding=Encoding(**options), max_pixels=10**6, threads=2, bad=bad
    )


@pytest.mark.parametrize("mode", ("jpeg", "raw"))
def test_jobs_write_what_one_writes(folder, tmp_path, mode, contract):
    """Each a share of the images, in order; every engine but ffcv reads the files together."""
    options = {"encoding": Encoding(mode), "max_pixels": 10**6}
    write_beton(tmp_path / "all.beton", folder, folder.index, **options)
    for i in (1, 2, 3):
        job = Job(i, 3)
        write_beton(job.file(tmp_path / "part.beton"), folder, folder.index, job=job, **options)
    whole, parts = open_beton(tmp_path / "all.beton"), open_beton(tmp_path / "part-*.beton")
    assert parts.index.classes == whole.index.classes and parts.read(range(10)) == whole.read(range(10))
    np.testing.assert_array_equal(parts.index.labels, whole.index.labels)
    plan = contract.whole(whole.index)
    for name in ("native", "reference"):
        np.testing.assert_array_equal(contract.load(name, parts, plan), contract.load(name, whole, plan))
    with pytest.raises(UserError, match="10 images for 20 jobs; give fewer jobs"):
        write_beton(tmp_path / "x.beton", folder, folder.index, job=Job(1, 20), **options)


def open_beton(path, has_classes=True) -> BetonSource:
    source = open_source(path.parent, path.name, has_classes=has_classes, max_pixels=10**6)
    assert isinstance(source, BetonSource)
    return source


def test_jpeg(folder, tmp_path):
    assert write(folder, tmp_path / "x" / "a.beton", max_side=100) == 10
    source = open_beton(tmp_path / "x" / "a.beton")
    assert source.index.classes == ("cat", "dog")
    np.testing.assert_array_equal(source.index.labels, folder.index.labels)
    assert [source.size(i) for i in range(5)] == [(100, 75), (60, 80), (50, 40), (30, 40), (30, 41)]
    for i in (1, 4, 6, 9):  # small enough, and what FFCV can decode
        assert source.read_one(i) == folder.read_one(i)
    for i in range(10):
        assert not source.raw[i]
        image = Image.open(io.BytesIO(source.read_one(i)))
        assert image.format == "JPEG" and image.mode in ("RGB", "L")
        assert image.size == source.size(i)
    reduced = decode_rgb(folder.read_one(0), "", 10**6).resize((100, 75), Image.Resampling.LANCZOS)
    stored = np.asarray(decode_rgb(source.read_one(0), "", 10**6), np.float32)
    assert np.abs(stored - np.asarray(reduced)).mean() < 5
    assert not list((tmp_path / "x").glob(".*"))


def test_raw_pixels_are_the_images(folder, tmp_path):
    write(folder, tmp_path / "a.beton", mode="raw", max_side=0)
    source = open_beton(tmp_path / "a.beton")
    for i in range(10):
        expected = decode_rgb(folder.read_one(i), "", 10**6)
        assert source.size(i) == expected.size
        assert source.raw[i]
        np.testing.assert_array_equal(decode_rgb(source.read_one(i), "", 10**6), np.asarray(expected))


def test_the_same_images_are_labelled_as_in_the_folder(folder, tmp_path):
    write(folder, tmp_path / "a.beton")
    source = open_beton(tmp_path / "a.beton")
    for seed in range(5):
        choice = [select_labelled(s.index, per_class=2, seed=seed).tolist() for s in (folder, source)]
        assert choice[0] == choice[1]
    assert source.name(3) == str(tmp_path / "a.beton" / "cat" / "3.jpg")


def test_without_classes(folder, tmp_path):
    write(folder, tmp_path / "a.beton")
    index = open_beton(tmp_path / "a.beton", has_classes=False).index
    assert index.classes == () and set(index.labels) == {-1}


def test_broken_images_stop_the_writer_or_are_left_out(folder, tmp_path):
    broken = tmp_path / "train" / "cat" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(BadImageError, match=r"1\.jpg"):
        write(folder, tmp_path / "a.beton")
    assert os.listdir(tmp_path) == ["train"] or not list(tmp_path.glob("*beton*"))
    assert write(folder, tmp_path / "a.beton", bad=BadImages(1)) == 9
    source = open_beton(tmp_path / "a.beton")
    assert source.index.labels.tolist() == [0] * 4 + [1] * 5
    assert source.read_one(5) == folder.read_one(6)


@pytest.mark.parametrize("options", [{"mode": "gif"}, {"max_side": -1}, {"quality": 0}])
def test_wrong_options(options):
    with pytest.raises(UserError, match=next(iter(options))):
        Encoding(**options)


def test_damaged_files_say_so(folder, tmp_path):
    path = tmp_path / "a.beton"
    write(folder, path)
    data = path.read_bytes()
    damaged = {
        "cut": data[:-300],
        "head": data[:1000],
        "empty": b"",
        "version": b"\x09" + data[1:],
        "text": b"no beton at all, but long enough for a header",
        "pages": data[:9_000_000],
    }
    for name, content in damaged.items():
        (tmp_path / f"{name}.beton").write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.beton.*fastsemi data beton"):
            open_beton(tmp_path / f"{name}.beton")


def test_ffcv_reads_what_is_written(folder, tmp_path):
    reader = pytest.importorskip("ffcv.reader")
    write(folder, tmp_path / "a.beton", max_side=100)
    theirs = reader.Reader(str(tmp_path / "a.beton"))
    assert theirs.field_names == ["image", "label"] and theirs.num_samples == 10
    np.testing.assert_array_equal(theirs.metadata["f1"], folder.index.labels)
    source = open_beton(tmp_path / "a.beton")
    np.testing.assert_array_equal(theirs.alloc_table["ptr"], source.index.offset)
    assert theirs.metadata["f0"]["width"].tolist() == source.index.sizes[:, 0].tolist()


class _Pictures:
    """A data set as FFCV's writer takes it."""

    def __init__(self, photo):
        self._images = [photo(40 + 3 * i, 30, i) for i in range(6)]

    def __len__(self):
        return len(self._images)

    def __getitem__(self, i):
        return int(i) % 3, self._images[i]


@pytest.mark.timeout(60)  # its writer waits for ever where a worker fails
def test_what_ffcv_writes_is_read(tmp_path, photo):
    writer = pytest.importorskip("ffcv.writer")
    fields = pytest.importorskip("ffcv.fields")
    pictures = _Pictures(photo)
    for mode in ("jpg", "raw"):
        path = tmp_path / f"{mode}.beton"
        image = fields.RGBImageField(write_mode=mode, jpeg_quality=95)
        writer.DatasetWriter(
            str(path), {"label": fields.IntField(), "image": image}, num_workers=2
        ).from_indexed_dataset(pictures, chunksize=1)
        source = open_beton(path)
        assert source.index.labels.tolist() == [0, 1, 2, 0, 1, 2] and source.index.classes == ("0", "1", "2")
        for i in range(6):
            assert source.size(i) == (40 + 3 * i, 30)
            stored = np.asarray(decode_rgb(source.read_one(i), "", 10**6), np.float32)
            difference = np.abs(stored - np.asarray(pictures[i][1])).mean()
            assert difference < 5 and (mode == "jpg" or difference == 0)
        assert len(read_beton(str(path)).images) == 6
