"""Images in tar shards."""

import io
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.index.formats import FURTHER
from fastsemi.loaders.sources import archive
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.open import expand_braces, open_source
from fastsemi.loaders.sources.tar import TarSource


def jpeg(image, **options):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", **options)
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def shards(tmp_path, photo):
    """Three shards of four images; classes 0 to 2 in turn, from .cls and, in the last shard, from .json."""
    contents = []
    for s in range(3):
        members = []
        for i in range(4):
            number = 4 * s + i
            contents.append(jpeg(photo(30 + number, 20, number)))
            label = [f"{number:04}.json", json.dumps({"caption": "x", "label": number % 3}).encode()]
            if s < 2:
                label = [f"{number:04}.cls", f"{number % 3}\n".encode()]
            members += [(f"{number:04}.JPG", contents[-1]), tuple(label), (f"{number:04}.txt", b"words")]
        write_tar(tmp_path / f"train-{s:03}.tar", members)
    return tmp_path, contents


def open_shards(folder):
    """How many descriptors of shards in a folder this process holds."""
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    files = [os.readlink(link) for link in links if os.path.lexists(link)]
    return sum(file.startswith(f"{folder}{os.sep}") and file.endswith(".tar") for file in files)


def open_tar(*files, has_classes=True, **options) -> TarSource:
    return TarSource.open([str(f) for f in files], has_classes=has_classes, max_pixels=10**6, **options)


@pytest.mark.parametrize("what", ["", "train-{000..002}.tar", "train-*.tar", "train-00{0,1,2}.tar"])
def test_bytes_classes_names_and_sizes(shards, what):
    root, contents = shards
    source: Source = open_source(root, what, has_classes=True, max_pixels=10**6)
    assert source.read(range(12)) == contents
    index = source.index
    assert index.classes == ("0", "1", "2")
    np.testing.assert_array_equal(index.labels, np.arange(12) % 3)
    assert source.size(5) == (35, 20) and len(index.broken) == 0
    assert source.name(5) == str(root / "train-001.tar" / "0005.JPG")
    file, offset, length = index.files[index.file[5]], int(index.offset[5]), int(index.length[5])
    assert Path(file).read_bytes()[offset : offset + length] == contents[5]


def test_without_classes_none_is_looked_at(shards):
    root, _ = shards
    source = open_source(Path(), root, has_classes=False, max_pixels=10**6)
    assert source.index.classes == () and set(source.index.labels) == {-1}


def test_named_classes(tmp_path, photo):
    image = jpeg(photo(20, 20))
    file = write_tar(
        tmp_path / "a.tar", [("x/1.jpg", image), ("x/1.cls", b"dog"), ("x/2.jpg", image), ("x/2.cls", b"cat")]
    )
    assert open_tar(file).index.classes == ("cat", "dog")
    (tmp_path / "classes.txt").write_text("dog\ncat\n")
    index = open_tar(file).index
    assert index.classes == ("dog", "cat") and index.labels.tolist() == [0, 1]
    (tmp_path / "classes.txt").write_text("dog\nhorse\n")
    with pytest.raises(UserError, match="'cat'"):
        open_tar(file)


def test_dots_in_folders_and_several_images_of_a_sample(tmp_path, photo):
    one, two = jpeg(photo(20, 21)), jpeg(photo(22, 23))
    file = write_tar(
        tmp_path / "a.tar",
        [
            ("v1.0/1.jpg", one),
            ("v1.0/1.cls", b"1"),
            ("v1.0/1.png", two),
            ("v1.0/1.seg.png", two),
            ("v2.0/1.jpg", two),
        ],
    )
    source = open_tar(file, has_classes=False)
    assert source.read([0, 1]) == [one, two] and len(source) == 2


def test_a_long_header_does_not_hide_the_size(tmp_path, photo):
    data = jpeg(photo(64, 48), icc_profile=os.urandom(200_000))
    assert open_tar(write_tar(tmp_path / "a.tar", [("1.jpg", data)]), has_classes=False).size(0) == (64, 48)


def test_the_index_is_kept_until_a_shard_changes(shards):
    root, contents = shards
    first = open_source(root, "", has_classes=True, max_pixels=10**6)
    assert all(
        not array.flags.owndata for array in (first.index.offset, first.index.sizes, first.index.path_blob)
    )
    again = open_source(root, "", has_classes=True, max_pixels=10**6)
    np.testing.assert_array_equal(first.index.offset, again.index.offset)
    write_tar(root / "train-000.tar", [("new.jpg", contents[7]), ("new.cls", b"2")])
    changed = open_source(root, "", has_classes=True, max_pixels=10**6)
    assert len(changed) == 9 and changed.read_one(0) == contents[7]
    assert first.size(5) == (35, 20)  # its arrays stay although their files are gone


def test_processes_and_threads_may_open_at_once(shards):
    root, contents = shards
    with ThreadPoolExecutor(8) as pool:
        sources = list(
            pool.map(lambda _: open_source(root, "", has_classes=True, max_pixels=10**6), range(8))
        )
    assert all(source.read_one(11) == contents[11] for source in sources)


@pytest.mark.parametrize(
    ("members", "message"),
    [([("1.jpg", b"?"), ("2.cls", b"1")], "no class"), ([("1.txt", b"?")], "hold no images")],
)
def test_wrong_shards_say_so(tmp_path, members, message):
    with pytest.raises(UserError, match=message):
        open_tar(write_tar(tmp_path / "a.tar", members))


def test_truncated_compressed_and_missing_shards(shards, tmp_path):
    root, _ = shards
    file = root / "train-000.tar"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2 - len(data) // 2 % 512 + 100])
    with pytest.raises(UserError, match=r"train-000\.tar is no complete"):
        open_tar(file)
    (root / "gz.tar").write_bytes(b"\x1f\x8b" + bytes(600))
    with pytest.raises(UserError, match="gunzip"):
        open_tar(root / "gz.tar")
    with pytest.raises(UserError, match=r"nowhere\.tar"):
        open_source(root, "nowhere.tar", has_classes=True, max_pixels=1)
    with pytest.raises(UserError, match="train-7"):
        open_source(root, "train-{7..9}.tar", has_classes=True, max_pixels=1)


def test_broken_images_are_known_and_do_not_lose_a_batch(tmp_path, photo):
    file = write_tar(tmp_path / "a.tar", [("1.jpg", b"none"), ("2.jpg", b""), ("3.jpg", jpeg(photo(9, 9)))])
    source = open_tar(file, has_classes=False)
    assert source.index.broken.tolist() == [0, 1]
    assert source.size(0) == (0, 0)
    result = source.read([0, 1, 2])
    assert result[0] == b"none" and isinstance(result[1], BadImageError) and "2.jpg" in result[1].path
    with open(file, "r+b") as shard:
        shard.truncate(100)
    with pytest.raises(BadImageError, match=r"3\.jpg.*ends"):
        source.read_one(2)


def test_many_threads_read_at_once(shards):
    root, contents = shards
    source = open_source(root, "", has_classes=True, max_pixels=10**6)
    ids = np.random.default_rng(0).integers(0, 12, 2000).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read_one, ids)) == [contents[i] for i in ids]


def test_no_file_stays_open(shards):
    root, _ = shards
    for _ in range(200):
        source = open_source(root, "", has_classes=True, max_pixels=10**6)
        source.read(range(12))
        del source
    source = open_source(root, "", has_classes=True, max_pixels=10**6)
    source.read_one(0)
    assert open_shards(root) == 1
    source.close()
    assert open_shards(root) == 0


def test_more_shards_than_files_may_stay_open(tmp_path, photo, monkeypatch):
    monkeypatch.setattr(archive, "_OPEN_FILES", 2)
    contents = [jpeg(photo(20, 20, i)) for i in range(5)]
    files = [write_tar(tmp_path / f"{i}.tar", [("x.jpg", contents[i])]) for i in range(5)]
    source = open_tar(*files, has_classes=False)
    assert source.read([4, 3, 2, 1, 0, 4]) == [contents[i] for i in (4, 3, 2, 1, 0, 4)]
    assert open_shards(tmp_path) == 2


def test_braces():
    assert list(expand_braces("a{08..10}b{x,y}")) == ["a08bx", "a08by", "a09bx", "a09by", "a10bx", "a10by"]
    with pytest.raises(UserError, match="backwards"):
        list(expand_braces("{3..1}"))


def test_class_folders_beside_archives_are_a_folder_of_images(tmp_path, photo):
    (tmp_path / "a").mkdir()
    photo(9, 9).save(tmp_path / "a" / "1.png")
    write_tar(tmp_path / "left.tar", [("1.txt", b"")])
    assert len(open_source(tmp_path, "", has_classes=True, max_pixels=10**6)) == 1


def test_mixed_kinds_are_refused(tmp_path):
    (tmp_path / "a.tar").touch()
    (tmp_path / "b.beton").touch()
    with pytest.raises(UserError, match=r"\.beton, \.tar"):
        open_source(tmp_path, "", has_classes=True, max_pixels=1)


def test_a_file_of_no_known_kind_is_refused(tmp_path):
    (tmp_path / "train.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(UserError, match=r"train\.tar\.gz is neither a folder nor a file.*\.tar.*unpack it"):
        open_source(tmp_path, "train.tar.gz", has_classes=True, max_pixels=10**6)


def classes_of(source):
    return {os.path.basename(source.name(i)): int(source.index.labels[i]) for i in range(len(source))}


def test_names_with_several_dots_are_images_of_their_own(tmp_path, photo):
    picture = jpeg(photo(8, 8))
    members = [
        *(("22.05.jpg", picture), ("22.05.cls", b"1"), ("22.06.jpg", picture), ("22.06.cls", b"0")),
        *(("x/a.left.png", picture), ("x/a.right.png", picture), ("x/a.cls", b"2")),
        *(("b.jpg", picture), ("b.seg.png", picture), ("b.jpeg", picture), ("b.cls", b"1"), ("b.txt", b"")),
        *(("c.jpg", picture), ("c.cls", b"0"), ("c.2.jpg", picture), ("c.2.cls", b"2"), ("./._c.jpg", b"?")),
    ]
    source = open_tar(write_tar(tmp_path / "a.tar", members))
    wanted = {"22.05.jpg": 1, "22.06.jpg": 0, "a.left.png": 2, "a.right.png": 2}
    assert classes_of(source) == wanted | {"b.jpg": 1, "c.jpg": 0, "c.2.jpg": 2}
    assert source.index.skipped == {"further images of a sample": 2, ".txt": 1, "hidden": 1}


def test_a_class_that_stands_apart_from_its_image_is_found(tmp_path, photo):
    picture = jpeg(photo(8, 8))
    images = [(f"{i}.jpg", picture) for i in range(3)]
    labels = [("0.cls", b"2"), ("1.json", b'{"label": 1}'), ("2.cls", b"0")]
    for members in ([*images, *labels], [*labels, *images]):
        source = open_tar(write_tar(tmp_path / "a.tar", members))
        assert classes_of(source) == {"0.jpg": 2, "1.jpg": 1, "2.jpg": 0}


def test_names_that_come_twice_keep_the_class_beside_them_or_are_refused(tmp_path, photo):
    picture = jpeg(photo(8, 8))
    one, two = [("1.jpg", picture), ("1.cls", b"0")], [("1.jpg", picture), ("1.cls", b"1")]
    between = [("z.json", b"{}")]
    source = open_tar(write_tar(tmp_path / "a.tar", [*one, *between, *two]))
    assert source.index.labels.tolist() == [0, 1]
    with pytest.raises(UserError, match=r"image 1 in .*c\.tar has several classes \(0, 1\)"):
        open_tar(write_tar(tmp_path / "c.tar", [*one, *two]))
    again = open_tar(write_tar(tmp_path / "d.tar", [*one, *one]))
    assert again.index.labels.tolist() == [0] and again.index.skipped == {FURTHER: 1}
    apart = [*one, *between, *two, *between, ("1.png", picture)]
    with pytest.raises(UserError, match=r"image 1\.png in .*b\.tar has several classes \(0, 1\)"):
        open_tar(write_tar(tmp_path / "b.tar", apart))
