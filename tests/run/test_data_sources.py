"""`data.train` may name any kind of source, and `fastsemi data beton` packs one."""

import logging
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.run import config as configuration
from fastsemi.run.checks import stage_fingerprint
from fastsemi.run.context import RunContext
from fastsemi.run.order import STAGE_CLASSES, settings


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


def test_class_folders_as_a_table_are_the_same_run(tiny, shapes, tmp_path):
    """Ids, labels, fingerprints and the first step's pixels of each role."""
    shutil.copytree(shapes, tmp_path / "d")
    for part in ("train", "val"):
        names = sorted(
            file.relative_to(tmp_path / "d" / part) for file in (tmp_path / "d" / part).rglob("*.png")
        )
        rows = [f"{name};{name.parent}" for name in reversed(names)]
        (tmp_path / "d" / part / "t.csv").write_text("\ufefffile;class\r\n" + "\r\n".join(rows))
    root = ("--data.root", str(tmp_path / "d"))
    folders, table = (
        RunContext(tiny(*root)),
        RunContext(tiny(*root, "--data.train", "train/t.csv", "--data.val", "val/t.csv")),
    )
    try:
        for stage in ("pretrain", "finetune", "semi"):
            mine, theirs = ({**stage_fingerprint(run, stage)} for run in (folders, table))
            assert (theirs.pop("data.train"), mine.pop("data.train")) == ("train/t.csv", "train")
            assert mine == theirs
            steps = []
            for run in (folders, table):
                roles = STAGE_CLASSES[stage].build_roles(settings(run.config, stage), run.data, 0)
                for role in roles.values():
                    with run.data.load(role.images, [role.stream.plan(0, 0)]) as loader:
                        batch = next(iter(loader))
                        steps.append((batch.plan.ids, batch.plan.labels, batch.images.clone()))
            half = len(steps) // 2
            for mine, theirs in zip(steps[:half], steps[half:], strict=True):
                assert all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
    finally:
        folders.close()
        table.close()


def test_a_table_is_packed_with_its_images_without_label(shapes, tmp_path, capsys):
    shutil.copytree(shapes / "val", tmp_path / "val")
    table = tmp_path / "some.csv"
    table.write_text("path,label,split\nbar/000.png,x,train\ndot/000.png,y,train\ndot/001.png,y,val\n")
    words = ("data", "beton", str(tmp_path / "a.beton"), "--images", str(tmp_path / "val"), "--mode", "raw")
    assert main([*words, "--labels", str(table)]) == 2 and "say whose rows" in capsys.readouterr().err
    assert main([*words, "--labels", str(table), "--without_classes"]) == 2
    assert main([*words, "--labels", str(table), "--split", "train"]) == 0
    data = data_of(tmp_path, train="a.beton", val="val")
    assert data.classes == ("x", "y") and np.bincount(data.train.index.labels + 1).tolist() == [27, 1, 1]
    assert (len(data.all_labelled.ids), len(data.unlabelled.ids)) == (2, 27), (
        "of each class all that there is"
    )
    with pytest.raises(UserError, match="has classes that"):
        _ = data.val
    data = data_of(tmp_path, train="val", val="a.beton")
    with pytest.raises(UserError, match=r"27 images of .*a.beton to evaluate on have no label"):
        _ = data.val


def test_evaluation_images_of_some_classes_are_numbered_by_name(shapes, tmp_path, caplog):
    for name in ("dot", "bar"):
        shutil.copytree(shapes / "val" / name, tmp_path / "val" / name)
    (tmp_path / "train").symlink_to(shapes / "train")
    data = data_of(tmp_path)
    with caplog.at_level(logging.INFO, logger="fastsemi.loaders"):
        assert set(data.val.index.labels) == {0, 2} and data.val.index.classes == data.classes
        _ = data.val
    assert [r.getMessage() for r in caplog.records if "evaluate on" in r.getMessage()] == [
        f"{tmp_path / 'val'}: no images to evaluate on of 1 of 3 classes (cross)"
    ]
    shutil.copytree(shapes / "val" / "dot", tmp_path / "val" / "dots")
    with pytest.raises(UserError, match=r"has classes that .*/train has not \(dots\)"):
        _ = data_of(tmp_path).val


def test_one_class_is_refused(shapes, tmp_path):
    shutil.copytree(shapes / "train" / "bar", tmp_path / "train" / "bar")
    data = data_of(tmp_path)
    assert len(data.pretraining.ids) == 40, "which needs no classes"
    with pytest.raises(UserError, match="holds the one class bar; a classifier needs two or more"):
        _ = data.labelled


def test_a_table_of_labels_needs_a_folder_of_images(packed, shapes, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text(f"path,label\n{shapes}/train/bar/000.png,x\n")
    config = DataConfig(root=packed, train="train.beton", labels=LabelsConfig(file=table))
    with pytest.raises(UserError, match=r"train.beton is no folder of images; give a list"):
        _ = Data(config, LoaderConfig()).train


def test_unlabelled_images_need_no_classes(packed, shapes):
    data = data_of(shapes, unlabeled=packed / "val.tar")
    assert len(data.unlabelled.ids) == 30 and set(data.unlabelled.index.labels) == {-1}
    data.close()


def test_unlabelled_images_of_several_places(packed, shapes, tmp_path, tiny):
    places = (shapes / "train" / "dot", shapes / "train" / "bar")
    table = tmp_path / "more.csv"
    table.write_text(f"file,label\n{shapes}/train/cross/000.png,x\n")
    data = data_of(shapes, unlabeled=(*places, table))
    index = data.unlabelled.index
    assert [index.path(i) for i in range(81)] == [
        *(str(place / f"{i:03}.png") for place in places for i in range(40)),
        str(shapes / "train/cross/000.png"),
    ]
    assert set(index.labels) == {-1} and index.classes == () and np.asarray(index.sizes).min() == 16
    assert len(data.pretraining.ids) == 81
    for several, message in (
        ((shapes / "train", places[0]), r"dot/000.png is in .*/train and in .*/train/dot; name places"),
        ((packed / "val.tar", places[0]), "names archives and folders"),
        ((packed / "val.tar", packed / "val.tar"), r"val.tar is named twice"),
        ((packed / "val.tar", packed / "train.beton"), "means files of the kinds .beton, .tar"),
    ):
        with pytest.raises(UserError, match=message):
            _ = data_of(shapes, unlabeled=several).unlabelled
    shutil.copy(packed / "val.tar", packed / "copy.tar")
    both = data_of(shapes, unlabeled=(packed / "val.tar", packed / "copy.tar")).unlabelled
    assert len(both.ids) == 60 and both.source.read_one(0) == both.source.read_one(30)
    config = tiny("--data.unlabeled", f"[{places[0]}, {places[1]}]")
    assert config.data.unlabelled_places == places
    (tmp_path / "again.yaml").write_text(configuration.to_yaml(config))
    assert configuration.load([tmp_path / "again.yaml"], []) == config
    assert tiny("--data.unlabeled", str(places[0])).data.unlabeled == places[0]
    with pytest.raises(UserError, match="empty list"):
        tiny("--data.unlabeled", "[]")


def test_files_that_are_evaluated_on_are_not_among_images_without_labels(shapes, tmp_path, caplog):
    caplog.set_level(logging.INFO, "fastsemi.loaders")
    data = data_of(shapes, unlabeled=shapes)  # 120 to train on, 30 to evaluate on
    assert {data.unlabelled.index.relative_path(int(i)).split("/")[0] for i in data.unlabelled.ids} == {
        "train"
    }
    assert len(data.pretraining.ids) == len(data.unlabelled.ids) == 120
    assert "30 of 150 images are evaluated on" in caplog.text
    with pytest.raises(UserError, match=r"all images of data\.unlabeled are evaluated on"):
        _ = data_of(shapes, unlabeled=shapes / "val").unlabelled
    labels = LabelsConfig(per_class=4, validation=0.25)
    alone = Data(DataConfig(root=shapes, val=None, unlabeled=shapes / "train", labels=labels), LoaderConfig())
    held = {alone.train.index.relative_path(int(i)) for i in alone.held_out.ids}
    rest = {alone.unlabelled.index.relative_path(int(i)) for i in alone.unlabelled.ids}
    assert len(held) == 3 and len(rest) == 117 and not held & rest
    assert len(data_of(shapes, unlabeled=shapes / "train").unlabelled.ids) == 120
    assert len(data_of(shapes, unlabeled=shapes, val="nowhere").unlabelled.ids) == 150


def test_other_classes_are_refused(packed, shapes):
    numbered = packed / "numbers.tar"
    with tarfile.open(numbered, "w") as tar:
        (packed / "cls").write_text("3")
        tar.add(next((shapes / "val" / "dot").iterdir()), "a.png")
        tar.add(packed / "cls", "a.cls")
    with pytest.raises(UserError, match=r"has classes that .* has not"):
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
