"""Which images keep their label."""

import logging
from pathlib import Path

import numpy as np
import pytest

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import Index, build_index
from fastsemi.loaders.index.labels import hold_out, path_keys, select_labelled, unlabelled_ids

MASK = 2**64 - 1


def index_of(files, root="/data"):
    """An index of files that need not exist."""
    classes = sorted({file.split("/")[0] for file in files})
    blob, offsets = path_arrays(files)
    return Index(
        root=Path(root),
        classes=tuple(classes),
        path_blob=blob,
        path_offsets=offsets,
        labels=np.array([classes.index(file.split("/")[0]) for file in files], np.int32),
        sizes=np.full((len(files), 2), 8, np.int32),
        broken=np.zeros(0, np.int64),
    )


def path_arrays(names):
    parts = [name.encode() for name in names]
    return np.frombuffer(b"".join(parts), np.uint8), np.cumsum([0, *map(len, parts)])


def files_of(counts):
    return [f"{name}/{name}_{i}.JPEG" for name, count in counts.items() for i in range(count)]


NAMES = files_of({"n01": 100, "n02": 7, "n03": 250, "n04": 1})
INDEX = index_of(NAMES)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & MASK
    return value


def splitmix(x):
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def slow_key(path, seed):
    """The documented key, one path and one byte at a time."""
    return splitmix(fnv1a(path.encode()) ^ splitmix((seed + 0x9E3779B97F4A7C15) & MASK))


def test_slow_form_agrees_with_published_values():
    assert fnv1a(b"a") == 0xAF63DC4C8601EC8C
    assert fnv1a(b"foobar") == 0x85944171F73967E8
    assert splitmix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # first output of SplitMix64 seeded with 0


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 5, -1])
def test_keys_equal_the_slow_form(seed):
    names = ["a/1.png", "b/ü.png", "", "a/" + "x" * 300, "a/2.png"]
    keys = path_keys(*path_arrays(names), seed)
    assert keys.dtype == np.uint64
    assert keys.tolist() == [slow_key(name, seed) for name in names]


@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.1, 0.5, 1.0])
def test_fraction_is_taken_of_each_class(fraction):
    ids = select_labelled(INDEX, fraction=fraction)
    assert ids.dtype == np.int64 and (np.diff(ids) > 0).all()
    counts = np.bincount(INDEX.labels[ids], minlength=4).tolist()
    assert counts == [max(1, round(fraction * n)) for n in (100, 7, 250, 1)]


def test_per_class_takes_as_many_of_each():
    index = index_of(files_of({"a": 30, "b": 5, "c": 12}))
    assert np.bincount(index.labels[select_labelled(index, per_class=5, seed=4)]).tolist() == [5, 5, 5]


def test_choice_is_that_of_the_smallest_keys():
    ids = select_labelled(INDEX, fraction=0.1, seed=3)
    expected = []
    for name, count in (("n01", 10), ("n02", 1), ("n03", 25), ("n04", 1)):
        of_class = [i for i, path in enumerate(NAMES) if path.startswith(name)]
        expected += sorted(of_class, key=lambda i: slow_key(NAMES[i], 3))[:count]
    assert ids.tolist() == sorted(expected)


def test_choice_does_not_depend_on_other_classes_or_the_place():
    alone = index_of([name for name in NAMES if name.startswith("n03")], root="/elsewhere")
    chosen = {NAMES[i] for i in select_labelled(INDEX, fraction=0.1, seed=7) if NAMES[i].startswith("n03")}
    assert {alone.relative_path(i) for i in select_labelled(alone, fraction=0.1, seed=7)} == chosen


def test_smaller_choice_is_part_of_the_larger_and_seeds_differ():
    small, large = (set(select_labelled(INDEX, fraction=f, seed=1).tolist()) for f in (0.05, 0.2))
    assert small < large
    assert large != set(select_labelled(INDEX, fraction=0.2, seed=2).tolist())


def test_every_image_is_as_likely_as_another():
    index = index_of(files_of({"a": 40, "b": 40}))
    runs, hits, together = 2000, np.zeros(80), 0
    for seed in range(runs):
        ids = select_labelled(index, per_class=10, seed=seed)
        hits[ids] += 1
        together += int(np.isin([0, 1], ids).all())
    deviation = (hits - runs / 4) / np.sqrt(runs * 0.25 * 0.75)  # standard normal
    assert np.abs(deviation).max() < 4.5
    assert 40 < (deviation**2).sum() < 130  # about chi-square with 78 degrees of freedom
    pair = (10 * 9) / (40 * 39)  # a draw without replacement takes two given images this often
    assert abs(together / runs - pair) < 4 * np.sqrt(pair * (1 - pair) / runs)


def test_rest_and_all():
    labelled = select_labelled(INDEX, fraction=0.1)
    rest = unlabelled_ids(INDEX, labelled, include_labelled=False)
    assert rest.dtype == np.int64 and (np.diff(rest) > 0).all()
    assert sorted([*rest, *labelled]) == list(range(358))
    assert unlabelled_ids(INDEX, labelled, include_labelled=True).tolist() == list(range(358))
    everything = select_labelled(INDEX, fraction=1.0)
    assert len(unlabelled_ids(INDEX, everything, include_labelled=False)) == 0


def test_authors_csv(tmp_path):
    file = tmp_path / "train_1p_index.csv"
    file.write_bytes(b",Index,Name\r\n0,300,x\r\n1,5,y\r\n2, 102 ,z\r\n\r\n")
    assert select_labelled(INDEX, index_file=file).tolist() == [5, 102, 300]
    file.write_text("\ufeffIndex\n7\n", encoding="utf-8")
    assert select_labelled(INDEX, index_file=file).tolist() == [7]


def test_held_out_are_the_last_of_each_class_but_never_all():
    labelled = select_labelled(INDEX, per_class=1, seed=3)
    every = np.arange(len(INDEX))
    held = hold_out(INDEX, every, 0.3, 3)
    counts = [(INDEX.labels[held] == c).sum() for c in range(4)]
    assert counts == [30, 2, 75, 0], "round(0.3 n) of 100, 7 and 250; the only one of n04 trains"
    train = np.setdiff1d(every, held)
    assert set(labelled) <= set(train)
    keys = path_keys(INDEX.path_blob, INDEX.path_offsets, 3)
    for c in range(4):
        mine = INDEX.labels == c
        assert keys[train][mine[train]].max() <= keys[held][mine[held]].min(initial=MASK)
    assert [(INDEX.labels[hold_out(INDEX, every, 0.999, 3)] == c).sum() for c in range(4)] == [99, 6, 249, 0]


def test_with_some_held_out_those_train_that_a_smaller_choice_has():
    index = index_of(files_of({"a": 30, "b": 20}))
    labelled = select_labelled(index, per_class=10, seed=1)
    train = np.setdiff1d(labelled, hold_out(index, labelled, 0.2, 1))
    np.testing.assert_array_equal(train, select_labelled(index, per_class=8, seed=1))


@pytest.mark.parametrize(
    ("per_class", "fraction", "cure"),
    [
        (5, 0.1, "give 0.11 or more"),
        (2, 0.25, "give 0.26 or more"),
        (1, 0.9, "label at least two of a class"),
    ],
)
def test_a_fraction_that_holds_nothing_out_is_refused(per_class, fraction, cure):
    index = index_of(files_of({"a": 9, "b": 9}))
    labelled = select_labelled(index, per_class=per_class)
    with pytest.raises(UserError, match=cure) as error:
        hold_out(index, labelled, fraction, 0)
    assert str(fraction) in str(error.value)
    if per_class > 1:
        assert len(hold_out(index, labelled, float(cure.split()[1]), 0)) == 2


def test_list_of_names(tmp_path):
    file = tmp_path / "1percent.txt"
    file.write_bytes(b"n03_249.JPEG\nn01/n01_3.JPEG\r\n\n n02_0.JPEG \n")
    chosen = [NAMES[i] for i in select_labelled(INDEX, index_file=file)]
    assert chosen == ["n01/n01_3.JPEG", "n02/n02_0.JPEG", "n03/n03_249.JPEG"]


def test_class_without_label_is_logged(tmp_path, caplog):
    file = tmp_path / "list.csv"
    file.write_text("Index\n0\n1\n")
    with caplog.at_level(logging.WARNING):
        select_labelled(INDEX, index_file=file)
    assert "no label to 3 of 4 classes (n02, n03, n04)" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "parts"),
    [
        ("a.csv", "Index\n4\n358\n", ("line 3", "index 358 is beyond", "358 images")),
        ("a.csv", "Index\n-1\n", ("line 2", "index -1 is beyond")),
        ("a.csv", "Index\n3.5\n", ("line 2", "'3.5'", "whole numbers")),
        ("a.csv", "x,Index\n3\n", ("line 2", "''")),
        ("a.csv", "Index\n4\n5\n4\n", ("n01/n01_4.JPEG twice", "lines 2 and 4")),
        ("a.csv", "Index\n", ("names no image",)),
        ("a.csv", "image,text\n1,2\n", ("no column Index", "no two columns path and label")),
        ("a.txt", "n01_0.JPEG\nn99_0.JPEG\n", ("line 2", "'n99_0.JPEG'", "is not in /data")),
        ("a.txt", "n01_0.JPEG\nn01/n01_0.JPEG\n", ("twice", "lines 1 and 2")),
        ("a.tsv", "image\ttext\n1\t2\n", ("no column of labels",)),
        ("a.txt", "\n", ("names no image",)),
        ("a.npy", "\x93NUMPY\0\x01" + "x" * 5000, ("line 1", "is not in /data")),
    ],
)
def test_wrong_index_files(tmp_path, name, text, parts):
    file = tmp_path / name
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as error:
        select_labelled(INDEX, index_file=file)
    message = str(error.value)
    assert all(part in message for part in (*parts, str(file)))
    assert message.isprintable() and len(message) < 1000


def test_name_in_two_classes_must_be_told_apart(tmp_path):
    index = index_of(["a/0.png", "b/0.png"])
    file = tmp_path / "list.txt"
    file.write_text("0.png\n")
    with pytest.raises(UserError, match=r"several images .* give <class>/<name>"):
        select_labelled(index, index_file=file)
    file.write_text("b/0.png\n")
    assert select_labelled(index, index_file=file).tolist() == [1]


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({}, "exactly one way"),
        ({"fraction": 0.1, "per_class": 1}, "exactly one way"),
        ({"fraction": 0.0}, r"0\.0 is outside \(0, 1\]"),
        ({"fraction": 1.5}, r"1\.5 is outside"),
        ({"fraction": float("nan")}, "nan is outside"),
        ({"per_class": 0}, "below 1"),
    ],
)
def test_wrong_choices(choice, message):
    with pytest.raises(UserError, match=message) as error:
        select_labelled(INDEX, **choice)
    assert "\n" not in str(error.value)


def test_of_classes_that_are_too_small_all_images_are_labelled_and_that_is_said(caplog):
    ids = select_labelled(INDEX, per_class=8)
    assert np.bincount(INDEX.labels[ids]).tolist() == [8, 7, 8, 1]
    said = "per_class 8 is more than 2 of 4 classes hold; all of their images are labelled: n02 (7), n04 (1)"
    assert [record.getMessage() for record in caplog.records] == [f"data.labels.{said}"]


def test_missing_index_file(tmp_path):
    with pytest.raises(UserError, match=r"cannot read label index file .*none\.csv"):
        select_labelled(INDEX, index_file=tmp_path / "none.csv")


def test_from_a_folder_on_disk_with_and_without_classes(tmp_path):
    root = tmp_path / "d"
    for name in ("b/2.png", "a/1.png", "a/0.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"labels need no pixels")
    (tmp_path / "i.csv").write_text("Index\n2\n")
    index = build_index(root, has_classes=True, cache_dir=tmp_path / "cache", threads=1)
    assert index.paths(select_labelled(index, index_file=tmp_path / "i.csv")) == [str(root / "b" / "2.png")]
    assert len(select_labelled(index, per_class=1)) == 2
    flat = build_index(root, has_classes=False, cache_dir=tmp_path / "cache", threads=1)
    with pytest.raises(UserError, match="have no classes"):
        select_labelled(flat, per_class=1)
