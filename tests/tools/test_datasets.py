"""The data sets that `fastsemi data` writes."""

import gzip
import os
import sys

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import build_index
from fastsemi.tools import datasets


def read(folder, split):
    """Images and labels, by number, of one split."""
    found = {}
    for label, name in enumerate(sorted(os.listdir(folder / split))):
        for file in (folder / split / name).iterdir():
            with Image.open(file) as image:
                assert (image.format, image.mode) == ("PNG", "L")
                found[int(file.stem)] = (np.asarray(image), label)
    return found


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    out = tmp_path_factory.mktemp("digits") / "deep" / "digits"
    seen = []
    datasets.write_digits(out, lambda done, total: seen.append((done, total)))
    assert seen[-1] == (1797, 1797) and [d for d, _ in seen] == sorted(d for d, _ in seen)
    return out


def test_digits_are_scikit_learns(digits):
    original = pytest.importorskip("sklearn.datasets").load_digits()
    train, val = read(digits, "train"), read(digits, "val")
    assert (len(train), len(val)) == (1438, 359)
    assert sorted([*train, *val]) == list(range(1797))
    for number, (pixels, label) in {**train, **val}.items():
        assert label == original.target[number]
        assert np.abs(pixels / (255 / 16) - original.images[number]).max() <= 0.5 / (255 / 16)
    assert {int(p) for pixels, _ in train.values() for p in np.unique(pixels)} >= {0, 255, 128}
    for label in range(10):
        n = int((original.target == label).sum())
        assert sum(found == label for _, found in val.values()) == round(0.2 * n)


def test_digits_split_never_changes(digits, tmp_path):
    assert sorted(read(digits, "val"))[:8] == [8, 9, 39, 46, 47, 49, 50, 51]
    datasets.write_digits(tmp_path / "again")
    names = {str(p.relative_to(digits)) for p in digits.rglob("*.png")}
    assert names == {str(p.relative_to(tmp_path / "again")) for p in (tmp_path / "again").rglob("*.png")}


def test_digits_open_as_an_index(digits, tmp_path):
    index = build_index(digits / "train", has_classes=True, cache_dir=tmp_path, threads=2)
    assert index.classes == tuple("0123456789")
    assert (index.sizes == 8).all() and len(index.broken) == 0


def test_nothing_else_is_left_beside_the_folder(digits):
    assert os.listdir(digits.parent) == ["digits"]
    assert sorted(os.listdir(digits)) == ["train", "val"]
    assert (digits.stat().st_mode & 0o777) == (digits.parent.stat().st_mode & 0o777 | 0o055) & ~umask()


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_existing_folder(digits, tmp_path):
    with pytest.raises(UserError) as error:
        datasets.write_digits(digits)
    assert str(digits) in str(error.value) and "remove it" in str(error.value)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="is a file"):
        datasets.write_digits(file)
    with pytest.raises(UserError, match="cannot write"):
        datasets.write_digits(file / "below")
    empty = tmp_path / "empty"
    empty.mkdir()
    datasets.write_digits(empty)
    assert sorted(os.listdir(empty)) == ["train", "val"]


def test_a_failure_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Image.Image, "save", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UserError, match="No space left"):
        datasets.write_digits(tmp_path / "digits")
    assert os.listdir(tmp_path) == []


def test_scikit_learn_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(UserError, match=r"pip install 'fastsemi\[demo\]'"):
        datasets.write_digits(tmp_path / "digits")
    assert os.listdir(tmp_path) == []


def idx(array):
    header = b"\0\0\x08" + bytes([array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return gzip.compress(header + array.tobytes())


@pytest.fixture
def small_fashion(tmp_path, monkeypatch):
    """A package folder in the form of Debian's, with 30 + 20 images of noise."""
    rng = np.random.default_rng(0)
    package = tmp_path / "package"
    package.mkdir()
    parts = {}
    for part, n in (("train", 30), ("t10k", 20)):
        images = rng.integers(0, 256, (n, 28, 28), np.uint8)
        labels = (np.arange(n) % 10).astype(np.uint8)
        (package / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(images))
        (package / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(labels))
        parts[part] = (images, labels)
    monkeypatch.setattr(datasets, "_DEBIAN_FASHION_MNIST", package)
    return parts


def check_fashion(out, parts):
    for split, (images, labels) in zip(("train", "val"), parts.values(), strict=True):
        assert tuple(sorted(os.listdir(out / split))) == datasets.FASHION_MNIST_CLASSES
        found = read(out, split)
        assert sorted(found) == list(range(len(labels)))
        for number, (pixels, label) in found.items():
            assert label == labels[number]
            assert (pixels == images[number]).all()


def test_fashion_mnist_from_the_package(tmp_path, small_fashion):
    datasets.write_fashion_mnist(tmp_path / "out")
    check_fashion(tmp_path / "out", small_fashion)


def test_fashion_mnist_from_torchvisions_download(tmp_path, small_fashion, monkeypatch):
    """torchvision finds the raw files in place of the download and reads them itself."""
    package = datasets._DEBIAN_FASHION_MNIST
    monkeypatch.setattr(datasets, "_DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    from torchvision.datasets import FashionMNIST

    def download(self):
        os.makedirs(self.raw_folder, exist_ok=True)
        for file in package.iterdir():
            with open(os.path.join(self.raw_folder, file.stem), "wb") as raw:
                raw.write(gzip.decompress(file.read_bytes()))

    monkeypatch.setattr(FashionMNIST, "download", download)
    datasets.write_fashion_mnist(tmp_path / "out")
    check_fashion(tmp_path / "out", small_fashion)


def test_fashion_mnist_without_network(tmp_path, monkeypatch):
    from torchvision.datasets import FashionMNIST

    monkeypatch.setattr(datasets, "_DEBIAN_FASHION_MNIST", tmp_path / "not installed")
    monkeypatch.setattr(FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])  # the discard port: refused at once
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist") as error:
        datasets.write_fashion_mnist(tmp_path / "out")
    assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("damage", ["cut gzip", "cut data", "long data", "float", "text"])
def test_damaged_package(tmp_path, small_fashion, damage):
    file = datasets._DEBIAN_FASHION_MNIST / "t10k-labels-idx1-ubyte.gz"
    whole = gzip.decompress(file.read_bytes())
    file.write_bytes(
        {
            "cut gzip": file.read_bytes()[:-10],
            "cut data": gzip.compress(whole[:-1]),
            "long data": gzip.compress(whole + b"\0"),
            "float": gzip.compress(b"\0\0\x0d" + whole[3:]),
            "text": gzip.compress(b"\0\0"),
        }[damage]
    )
    with pytest.raises(UserError, match=r"t10k-labels-idx1-ubyte\.gz") as error:
        datasets.write_fashion_mnist(tmp_path / "out")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not datasets._has_debian(), reason="Debian's dataset-fashion-mnist is not installed")
def test_debians_files_are_the_whole_data_set():
    images, labels = datasets._fashion_mnist("t10k")
    assert images.shape == (10_000, 28, 28)
    assert np.bincount(labels).tolist() == [1000] * 10
