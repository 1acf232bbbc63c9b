"""Reading the files of an index."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.folder import FolderSource


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "train" / "a"
    folder.mkdir(parents=True)
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return tmp_path / "train"


@pytest.fixture
def source(root, tmp_path) -> Source:
    return FolderSource(build_index(root, has_classes=True, cache_dir=tmp_path / "cache", threads=1))


def test_bytes_names_and_sizes(source, root):
    assert len(source) == 6
    assert source.read(np.array([4, 0, 4])) == [(root / "a" / f"{i}.png").read_bytes() for i in (4, 0, 4)]
    assert source.read([]) == []
    assert source.name(2) == source.path(2) == str(root / "a" / "2.png")
    assert source.size(3) == (30, 23)
    assert all(type(side) is int for side in source.size(3))


def test_file_larger_than_one_read(root, tmp_path):
    data = os.urandom(5_000_000)
    (root / "a" / "9.png").write_bytes(data)
    index = build_index(root, has_classes=True, cache_dir=tmp_path / "cache", threads=1)
    assert FolderSource(index).read_one(6) == data


@pytest.mark.timeout(20)
def test_a_bad_file_does_not_lose_the_batch(source, root):
    (root / "a" / "1.png").unlink()
    (root / "a" / "2.png").write_bytes(b"")
    (root / "a" / "3.png").unlink()
    (root / "a" / "3.png").mkdir()
    (root / "a" / "4.png").unlink()
    os.mkfifo(root / "a" / "4.png")
    result = source.read(range(6))
    assert isinstance(result[0], bytes) and isinstance(result[5], bytes)
    for i, reason in enumerate(("No such file", "empty", "directory", "not a regular file"), start=1):
        error = result[i]
        assert isinstance(error, BadImageError)
        assert error.path == str(root / "a" / f"{i}.png")
        assert reason in error.reason and "\n" not in str(error)
        with pytest.raises(BadImageError, match=f"{i}.png"):
            source.read_one(i)


def test_many_threads_read_at_once(source, root):
    expected = [(root / "a" / f"{i}.png").read_bytes() for i in range(6)]
    ids = np.random.default_rng(0).integers(0, 6, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read_one, ids)) == [expected[i] for i in ids]


def test_no_file_stays_open(source, root, held):
    (root / "a" / "1.png").write_bytes(b"")
    (root / "a" / "2.png").unlink()
    (root / "a" / "2.png").mkdir()
    before = held()
    source.read(list(range(6)) * 50)
    before.assert_nothing_more()
