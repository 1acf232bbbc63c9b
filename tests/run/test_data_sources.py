"""`data.train` may name any kind of source, and `fastsemi data beton` packs one."""

import tarfile
from pathlib import Path

import numpy as np
import pytest

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches


@pytest.fixture
def packed(shapes, tmp_path, capsys):
    """The shapes as train.beton (raw pixels) and as val.tar with class numbers."""
    arguments = ["data", "beton", str(tmp_path / "train.beton"), "--images", str(shapes / "train")]
    assert main([*arguments, "--mode", "raw"]) == 0
    assert capsys.readouterr().out == f"120 images in {tmp_path / 'train.beton'}\n"
    with tarfile.open(tmp_path / "val.tar", "w") as tar:
        for label, folder in enumerate(sorted((shapes / "val").iterdir())):
            for file in sorted(folder.iterdir()):
                (tmp_path / "cls").write_text(folder.name)
                tar.add(file, f"{label}-{file.name}")
                tar.add(tmp_path / "cls", f"{label}-{file.stem}.cls")
    return tmp_path


def data_of(root, **options):
    config = DataConfig(root=root, labels=LabelsConfig(per_class=4), image_size=16, **options)
    return Data(config, LoaderConfig(threads=2, timeout_s=60))


def test_a_beton_holds_the_same_training_set(packed, shapes):
    folder, beton = data_of(shapes), data_of(packed, train="train.beton", val="val.tar")
    try:
        assert beton.classes == folder.classes == ("bar", "cross", "dot")
        for role in ("labelled", "unlabelled", "pretraining", "val"):
            mine, theirs = getattr(beton, role), getattr(folder, role)
            np.testing.assert_array_equal(mine.ids, theirs.ids)
            np.testing.assert_array_equal(mine.index.labels, theirs.index.labels)
            pixels = []
            for data, images in ((beton, mine), (folder, theirs)):
                plans = list(evaluation_batches(images.index, images.ids, 50, 1.0))
                with data.load(images, plans) as batches:
                    pixels.append(np.concatenate([b.images.numpy() for b in batches], axis=1))
            np.testing.assert_array_equal(*pixels)
    finally:
        folder.close()
        beton.close()


def test_unlabelled_images_need_no_classes(packed, shapes):
    data = data_of(shapes, unlabeled=packed / "val.tar")
    assert len(data.unlabelled.ids) == 30 and set(data.unlabelled.index.labels) == {-1}
    data.close()


def test_other_classes_are_refused(packed, shapes):
    numbered = packed / "numbers.tar"
    with tarfile.open(numbered, "w") as tar:
        (packed / "cls").write_text("3")
        tar.add(next((shapes / "val" / "dot").iterdir()), "a.png")
        tar.add(packed / "cls", "a.cls")
    with pytest.raises(UserError, match="other classes"):
        _ = data_of(packed, train="train.beton", val="numbers.tar").val


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.beton", "--images", "/nowhere"], "/nowhere does not exist"),
        (["a.bin", "--images", "."], "end in .beton"),
        (["a.beton", "--images", ".", "--quality", "200"], "quality is 200"),
        (["a.beton", "--images", ".", "--mode", "png"], "use jpeg or raw"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, message, capsys):
    assert main(["data", "beton", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not Path("a.beton").exists()
