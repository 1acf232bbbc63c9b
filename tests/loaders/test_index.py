"""The index: torchvision's order, the cache and what makes it stale, and wrong folders."""

import os
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from fastsemi.common.errors import UserError
from fastsemi.loaders.index import formats, look, scan
from fastsemi.loaders.index.formats import FORMATS, FURTHER, IMAGE_EXTENSIONS, OUTSIDE, say_skipped
from fastsemi.loaders.index.index import _FORMAT, build_index


def save(path, size=(3, 2), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (10, 20, 30)).save(path, **options)
    return path


@pytest.fixture
def build(tmp_path):
    def call(root=tmp_path / "train", has_classes=True, **options):
        return build_index(root, has_classes=has_classes, cache_dir=tmp_path / "cache", threads=2, **options)

    return call


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "train"
    for name in ("b/1.png", "b/2.JPEG", "a c/0.bmp", "Ä/ü.png", "a/z.png"):
        save(root / name)
    return root


@pytest.fixture
def opened(monkeypatch):
    """The paths whose header has been read."""
    paths = []
    real = look.headers

    def headers(root, files, *rest):
        paths.extend(os.path.join(root, file) for file in files)
        return real(root, files, *rest)

    monkeypatch.setattr(look, "headers", headers)
    return paths


def odd_tree(root, elsewhere):
    for name in (
        *("b/x.png", "b/X.PNG", "b/10.JpEg", "b/9.jpg", "b/.hidden.png", "B/q.webp", "a-b/1.tiff"),
        *("a/1.png", "a/b/c/deep.ppm", "a/b-c/1.png", "a/b.c/1.png", "a/b/1.pgm", "a/B/1.tif", "a/zz.png"),
        *("ünï/日本.png", "ünï/\u00e9.png", "ünï/e\u0301.png", "😀/1.png", "0/only/nested/x.png"),
        *(" space /a b.png", "a.b/1.bmp"),
    ):
        save(root / name)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "png").write_text("no image either")
    (root / "a" / "empty").mkdir()
    save(root / "stray.png")
    save(elsewhere / "pics" / "k.png")
    save(elsewhere / "pics" / "sub" / "l.png")
    os.symlink(elsewhere / "pics", root / "linked class")
    os.symlink(elsewhere / "pics", root / "a" / "linked folder")
    os.symlink(elsewhere / "pics" / "k.png", root / "b" / "linked.png")
    os.symlink(elsewhere / "nothing", root / "b" / "dangling.png")
    with open(os.fsencode(root / "b") + b"/latin\xe9.png", "wb") as file:
        file.write((root / "b" / "x.png").read_bytes())


def test_order_classes_and_labels_are_those_of_torchvision(tmp_path, build):
    """But for what is hidden."""
    odd_tree(tmp_path / "train", tmp_path / "elsewhere")
    theirs = ImageFolder(tmp_path / "train")
    seen = [(path, label) for path, label in theirs.samples if "/.hidden" not in path]
    paths = [path for path, _ in seen]
    assert len(paths) == len(theirs.samples) - 1
    for index in (build(), build()):  # built, then opened
        assert index.paths(range(len(index))) == paths
        assert index.labels.tolist() == [label for _, label in seen]
        assert index.skipped == {".txt": 1, "without extension": 1, "hidden": 1, OUTSIDE: 1}
        assert list(index.classes) == theirs.classes
        assert [os.fsdecode(path) for path in index.iter_relative()] == [
            os.path.relpath(path, tmp_path / "train") for path in paths
        ]
    assert len(paths) > 25


def test_without_classes_everything_below_is_taken(tmp_path, build):
    odd_tree(tmp_path / "train", tmp_path / "elsewhere")
    index = build(has_classes=False)
    expected = [
        os.path.join(folder, name)
        for folder, _, names in sorted(os.walk(tmp_path / "train", followlinks=True))
        for name in sorted(names)
        if name.lower().endswith(IMAGE_EXTENSIONS) and not name.startswith(".")
    ]
    assert index.paths(range(len(index))) == expected
    assert expected[0].endswith("stray.png")
    assert (index.labels == -1).all() and index.classes == ()


def test_sizes_ignore_exif_and_broken_files_are_named(tmp_path, build):
    folder = tmp_path / "train" / "a"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    save(folder / "0.jpg", (40, 30), exif=exif)
    save(folder / "1.png", (7, 9))
    (folder / "2.png").write_bytes(b"")
    (folder / "3.png").write_bytes(b"not an image at all")
    os.symlink("nowhere", folder / "4.png")
    os.mkfifo(folder / "5.png")
    (folder / "6.JPEG").write_bytes((folder / "1.png").read_bytes())  # ImageNet holds such a file
    save(folder / "7.png", (200, 200))
    index = build(max_pixels=39_999)
    assert index.orientation.tolist() == [6, 1, 1, 1, 1, 1, 1, 1] and index.lying == 1
    assert index.sizes.tolist() == [[40, 30], [7, 9], [0, 0], [0, 0], [0, 0], [0, 0], [7, 9], [0, 0]]
    assert index.broken.tolist() == [2, 3, 4, 5, 7]
    assert build().broken.tolist() == [2, 3, 4, 5]


def test_types_and_bounds(build, tree):
    index = build()
    assert (index.labels.dtype, index.sizes.dtype) == (np.int32, np.int32)
    assert index.sizes.shape == (len(index), 2) == (5, 2)
    assert os.path.isabs(index.path(0)) and index.root == tree
    for i in (-1, 5):
        with pytest.raises(IndexError):
            index.path(i)
    with pytest.raises(AttributeError):
        index.root = tree
    assert pickle.loads(pickle.dumps(index)).path(4) == index.path(4)


def test_relative_root_gives_absolute_paths(build, tree, monkeypatch):
    monkeypatch.chdir(tree.parent)
    assert build(root=os.path.join(".", "train")).path(0) == str(tree / "a" / "z.png")


def test_second_open_maps_memory_and_looks_at_no_file(build, tree, opened, monkeypatch):
    first = build()
    assert len(opened) == 5
    stamped = []
    monkeypatch.setattr(look, "_threaded", lambda *rest: stamped.extend(rest[3]) or np.zeros((0, 2)))
    monkeypatch.setattr(scan, "scan", lambda *_: pytest.fail("listed the folders again"))
    second = build()
    assert len(opened) == 5 and stamped == []
    assert isinstance(second.sizes.base, np.memmap) and isinstance(second.path_blob.base, np.memmap)
    assert second.paths(range(5)) == first.paths(range(5))
    assert (second.sizes == first.sizes).all() and (second.labels == first.labels).all()
    with pytest.raises(ValueError, match="read-only"):
        second.labels[0] = 3


def test_changed_folder_is_listed_again_and_only_new_files_are_opened(build, tree, opened):
    build()
    opened.clear()
    new = save(tree / "b" / "sub" / "new.png", (5, 5))
    index = build()
    assert opened == [str(new)]
    assert index.relative_path(4) == "b/sub/new.png" and index.sizes[4].tolist() == [5, 5]
    new.unlink()
    assert len(build()) == 5
    assert opened == [str(new)]


def test_a_file_replaced_by_rename_is_measured_again(build, tree, opened, tmp_path):
    build()
    opened.clear()
    os.replace(save(tmp_path / "other.png", (11, 12)), tree / "a" / "z.png")
    assert build().sizes[0].tolist() == [11, 12]
    assert opened == [str(tree / "a" / "z.png")]


def test_change_within_one_clock_tick_is_seen(build, tree):
    for n in range(20):  # nothing pauses between listing and change: the time must differ all the same
        assert len(build()) == 5 + n
        (tree / "b" / f"more{n}.png").write_bytes(b"x")


def test_class_folder_added_and_removed(build, tree):
    assert build().classes == ("a", "a c", "b", "Ä")
    save(tree / "aa" / "0.png")
    assert build().classes == ("a", "a c", "aa", "b", "Ä")
    (tree / "aa" / "0.png").unlink()
    (tree / "aa").rmdir()
    assert build().classes == ("a", "a c", "b", "Ä")


def test_broken_file_repaired_in_place_is_noticed(build, tree):
    broken = tree / "b" / "1.png"
    whole = broken.read_bytes()
    broken.write_bytes(b"")
    index = build()
    assert index.paths(index.broken) == [str(broken)]
    broken.write_bytes(whole)  # leaves the folder's time of change as it was
    assert len(build().broken) == 0


def test_refresh_reads_every_header_again(build, tree, opened):
    build()
    save(tree / "a" / "z.png", (8, 8))  # in place: no folder changes
    assert build().sizes[0].tolist() == [3, 2]
    opened.clear()
    assert build(refresh=True).sizes[0].tolist() == [8, 8]
    assert len(opened) == 5
    assert build().sizes[0].tolist() == [8, 8]
    assert len(opened) == 5


@pytest.mark.parametrize("damage", ["pointer", "array", "missing", "format"])
def test_damaged_cache_is_built_again(build, tree, tmp_path, damage):
    build()
    (folder,) = (tmp_path / "cache").iterdir()
    (generation,) = folder.glob("generation-*")
    if damage == "pointer":
        (folder / "current.json").write_text("{")
    elif damage == "array":
        (generation / "sizes.npy").write_bytes(b"\x93NUMPY")
    elif damage == "missing":
        (generation / "labels.npy").unlink()
    else:
        text = (folder / "current.json").read_text()
        (folder / "current.json").write_text(text.replace(f'"format": {_FORMAT}', '"format": 1'))
    assert build().sizes.tolist() == [[3, 2]] * 5
    assert len(list(folder.glob("generation-*"))) == 1
    assert not generation.exists()


def test_flat_and_class_index_of_one_folder_do_not_meet(build, tree):
    assert build().labels.tolist() == [0, 1, 2, 2, 3]
    assert build(has_classes=False).labels.tolist() == [-1] * 5
    assert build().labels.tolist() == [0, 1, 2, 2, 3]


def test_open_map_survives_a_rebuild(build, tree):
    old = build()
    save(tree / "a" / "0.png", (9, 9))
    new = build()
    assert (len(old), len(new)) == (5, 6)
    assert old.path(0).endswith("z.png") and new.path(0).endswith("0.png")


def test_cache_place_comes_from_the_environment(tmp_path, tree, monkeypatch):
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path / "mine"))
    build_index(tree, has_classes=True)
    assert len(list((tmp_path / "mine" / "index").glob("*/current.json"))) == 1
    monkeypatch.delenv("FASTSEMI_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    build_index(tree, has_classes=True)
    assert len(list((tmp_path / "home/.cache/fastsemi/index").glob("*/current.json"))) == 1


_BUILD = """
import sys
from pathlib import Path
from fastsemi.loaders.index.index import _FORMAT, build_index
index = build_index(Path(sys.argv[1]), has_classes=True, cache_dir=Path(sys.argv[2]), threads=1)
print(len(index), index.sizes.sum())
"""


def test_processes_that_start_together_agree(tmp_path, tree):
    command = [sys.executable, "-c", _BUILD, str(tree), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=60)[0] for process in started] == ["5 25\n"] * 3
    (folder,) = (tmp_path / "cache").iterdir()
    assert len(list(folder.glob("generation-*"))) == 1


def test_progress_reaches_the_end(build, tree, monkeypatch):
    monkeypatch.setattr(look, "_CHUNK", 2)
    seen = []
    build(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(2, 5), (4, 5), (5, 5)]


def refused(*parts):
    """Expect a `UserError` of one line that holds all of `parts`."""
    pattern = "".join(f"(?=.*{re.escape(str(part))})" for part in parts)
    return pytest.raises(UserError, match=rf"\A{pattern}[^\n]*\Z")


def test_wrong_folders_are_named_with_the_cure(tmp_path, build):
    root = tmp_path / "train"
    with refused(root, "does not exist"):
        build()
    assert not (tmp_path / "cache").exists()
    root.mkdir()
    with refused(root, "no class folders", "<class>"):
        build()
    with refused(root, "no images", ".jpeg"):
        build(has_classes=False)
    image = save(root / "x.png")
    with refused(root, "holds images but no class folders", "data.unlabeled"):
        build()
    with refused(image, "is not a folder"):
        build(root=image)
    save(root / "full" / "x.png")
    (root / "empty" / "deeper").mkdir(parents=True)
    with refused(root / "empty", "no images", "remove the folder"):
        build()


def test_link_to_a_parent_is_refused(build, tree):
    os.symlink(tree, tree / "a" / "loop")
    for has_classes in (True, False):
        with refused(tree / "a" / "loop", "a link to a folder that contains it"):
            build(has_classes=has_classes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list any folder")
def test_unreadable_folder_is_named(build, tree):
    (tree / "a").chmod(0)
    try:
        with refused("cannot list folder", tree / "a"):
            build()
    finally:
        (tree / "a").chmod(0o755)


def test_cache_that_cannot_be_written_is_named(tmp_path, tree):
    (tmp_path / "file").write_text("")
    with refused(tmp_path / "file", "FASTSEMI_CACHE"):
        build_index(tree, has_classes=True, cache_dir=tmp_path / "file")


def test_hidden_files_and_folders_are_neither_data_nor_classes(tmp_path, build):
    root = tmp_path / "train"
    last = "b/6.avif" if "AVIF" in FORMATS else "b/6.webp"  # which Pillow 11.0 does not know
    for name in ("a/1.png", "b/2.JFIF", "b/3.gif", "b/4.jpe", "b/5.jp2", last):
        save(root / name)
    for name in (".ipynb_checkpoints/1.png", "__MACOSX/a/1.png", "a/.thumbs/1.png", "a/._1.png", ".DS_Store"):
        save(root / f"{name}.png" if name == ".DS_Store" else root / name)
    (root / "labels.csv").write_text("")
    (root / "a" / "clip.MOV").write_text("")
    (root / "a" / "more.mov").write_text("")
    index = build()
    assert index.classes == ("a", "b") and len(index) == 6 and len(index.broken) == 0
    assert index.skipped == {".mov": 2, ".csv": 1, "hidden": 5}
    text = "skipped 3 files that are no images: 2 .mov, 1 .csv; 5 hidden files or folders"
    assert say_skipped(index.skipped) == text and say_skipped({}) == ""
    assert say_skipped({"hidden": 1}) == "skipped 1 hidden file or folder"
    cure = "pip install pillow-heif reads .heic and .heif"
    assert say_skipped({".heif": 2}) == f"skipped 2 files that are no images: 2 .heif; {cure}"
    assert say_skipped({".txt": 1}) == "skipped 1 file that is no image: 1 .txt"
    text = "skipped 1,000 images outside class folders; 1 further image of a sample"
    assert say_skipped({FURTHER: 1, OUTSIDE: 1000}) == text


def test_a_pillow_that_does_not_know_avif_is_quiet(monkeypatch):
    monkeypatch.setattr(
        formats.features, "check", lambda name: warnings.warn(f"unknown {name}", stacklevel=1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not formats._has_avif()
