"""Files of a cached index that are damaged: it is built again, and never names other images or labels."""

import numpy as np
import pytest
from PIL import Image

from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.sources.open import open_source

NAMES = ("ape/1.png", "ape/2.png", "bee/3.png", "cow/4.png", "cow/5.png")


@pytest.fixture
def root(tmp_path):
    for i, name in enumerate(NAMES):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8 + i, 9), (i, 0, 0)).save(path)
    return tmp_path


def content(index):
    return (
        [str(path)[-9:] for path in index.paths(np.arange(len(index)))],
        np.asarray(index.labels).tolist(),
        np.asarray(index.sizes).tolist(),
        list(index.classes),
    )


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_damaged_index_is_built_again(root, kind, damage, monkeypatch):
    import tarfile

    monkeypatch.setenv("FASTSEMI_CACHE", str(root / "cache"))
    if kind == "tar":
        with tarfile.open(root / "train.tar", "w") as tar:
            for i, name in enumerate(NAMES):
                base = f"{i:03}"
                tar.add(root / "train" / name, f"{base}.png")
                (root / "cls").write_text(str(i % 3))
                tar.add(root / "cls", f"{base}.cls")

        def build():
            index = open_source(root, "train.tar", has_classes=True, max_pixels=10**6).index
            return np.asarray(index.labels).tolist(), np.asarray(index.sizes).tolist(), list(index.classes)
    else:

        def build():
            return content(build_index(root / "train", has_classes=True))

    wanted, seen = build(), 0
    cache = default_cache_dir()
    kept = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file() and path.name != "lock"}
    for path in kept:
        for way, spoil in damage.WAYS.items():
            for other in list(cache.rglob("*")):  # exactly the files of the first build
                if other.is_file() and other not in kept and other.name != "lock":
                    other.unlink()
            for file, was in kept.items():
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(was)
            spoil(path)
            assert build() == wanted, (path.name, way)
            seen += 1
    assert seen > 40
