"""What a run says first of its images."""

import shutil
from contextlib import closing

from fastsemi.loaders.data import Data
from fastsemi.run.data_lines import data_lines


def _lines(config, stages=None):
    with closing(Data(config.data, config.loader)) as data:
        return list(data_lines(config, data, stages or config.stages))


def test_one_line_where_nothing_is_odd(tiny):
    assert _lines(tiny()) == [
        "data: 120 training images, 3 classes (40 to 40), 12 labelled, 108 unlabelled, 30 to evaluate on"
    ]
    held = tiny("--data.labels.validation", "0.25")
    assert "9 labelled, 3 of them held out, 111 unlabelled, 30 to evaluate on" in _lines(held)[0]
    alone = tiny("--data.val", "null", "--data.labels.validation", "0.25")
    assert _lines(alone)[0].endswith("9 labelled, 108 unlabelled, 3 to evaluate on")
    assert _lines(tiny(), ["pretrain"]) == ["data: 120 images to pretrain on"]
    assert "unlabelled" not in _lines(tiny(), ["finetune"])[0]


def test_images_that_a_table_does_not_name_are_of_no_class(tiny, shapes, tmp_path):
    rows = [
        f"{name}/00{i}.png,{name}" for name, n in (("bar", 3), ("cross", 4), ("dot", 4)) for i in range(n)
    ]
    (tmp_path / "some.csv").write_text("\n".join(["path,label", *rows]))
    options = ("--data.labels.per_class", "null", "--data.labels.file", str(tmp_path / "some.csv"))
    assert _lines(tiny(*options))[0] == (
        "data: 120 training images, 3 classes (3 to 4 labels), 11 labelled, 109 unlabelled, 30 to evaluate on"
    )


def test_a_second_line_where_something_is(tiny, shapes, tmp_path):
    root = tmp_path / "odd"
    shutil.copytree(shapes, root)
    for n in range(1, 40):
        (root / "train" / "bar" / f"{n:03}.png").unlink()
    (root / "train" / "dot" / "000.png").write_bytes(b"no image")
    options = ("--data.root", str(root), "--data.labels.per_class", "null", "--data.labels.fraction", "1.0")
    first, second = _lines(tiny(*options), ["finetune"])
    assert "3 classes (1 to 40)" in first
    assert "1 cannot be read" in second and "dot/000.png (data.max_bad is 0)" in second
    assert "the largest class has 40 labels and the smallest 1" in second
    few = ("--data.root", str(root), "--data.labels.per_class", "1")  # the broken one is not among them
    assert "cannot be read" not in "".join(_lines(tiny(*few), ["finetune"]))
    assert "1 cannot be read" in "".join(_lines(tiny(*few), ["semi"]))
    ready = _lines(tiny(*options, "--finetune.balanced", "true"), ["finetune"])
    assert "largest class" not in ready[1]


def test_classes_without_an_image_to_evaluate_on_are_counted(tiny, tmp_path):
    for few, told in ((["bar"], "1 class has no"), (["bar", "cross"], "2 classes have no")):
        rows = [
            f"{name}/{i:03}.png,{name}"
            for name in ("bar", "cross", "dot")
            for i in range(1 if name in few else 6)
        ]
        (tmp_path / "few.csv").write_text("\n".join(["path,label", *rows]))
        options = ("--data.labels.per_class", "null", "--data.labels.file", str(tmp_path / "few.csv"))
        held = ("--data.val", "null", "--data.labels.validation", "0.2")
        assert f"{told} image to evaluate on" in _lines(tiny(*options, *held))[1]
