"""Images of whole runs: without classes, broken, new."""

import shutil

import pytest

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.run.checks import check_images
from fastsemi.run.context import RunContext


def test_unlabelled_images_may_come_from_a_folder_without_classes(tiny, tmp_path, photo, runs):
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    for i in range(40):
        photo(20 + i, 30, i).save(folder / f"{i}.jpg")
    config = tiny("--stages", "[finetune, semi]", "--data.unlabeled", str(folder))
    runs.train(config)
    rows = runs.rows(config)
    semi = [row for row in rows if row["stage"] == "semi" and "loss" in row]
    assert all(row["pseudo_label_accuracy"] is None for row in semi), "unknown, not zero"


def test_broken_images_are_skipped_counted_and_reported(tiny, tmp_path, shapes, runs):
    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    victims = [root / "train" / "bar" / "003.png", root / "train" / "dot" / "005.png"]
    options = ["--stages", "[pretrain]", "--data.root", str(root), "--pretrain.length", "5 epochs"]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError, match=r"00[35]\.png.*data\.max_bad"):
        runs.train(tiny(*options))
    summary = runs.train(tiny(*options, "--data.max_bad", "2"))
    assert summary["skipped_images"] == [str(path) for path in victims]


def test_evaluation_survives_a_batch_of_broken_images_alone(tiny, tmp_path, shapes, capsys, runs):
    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "009.png").write_bytes(b"\x89PNG broken")  # the last one, alone in its batch
    config = tiny(
        "--stages", "[finetune]", "--data.root", str(root), "--data.max_bad", "1", "--eval_batch", "29"
    )
    summary = runs.train(config)
    assert summary["skipped_images"] == [str(root / "val" / "dot" / "009.png")]
    assert main(["evaluate", "--output", str(config.output)]) == 0
    assert "29 evaluation images" in capsys.readouterr().out


def test_a_failed_prediction_keeps_the_former_file(trained, tmp_path, capsys):
    config, _ = trained("--stages", "[finetune]")
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG broken")
    table = tmp_path / "out.csv"
    table.write_text("precious")
    assert main(["predict", f"--output={config.output}", str(folder), "--csv", str(table)]) == 2
    assert "none of the images can be read (1 broken" in (said := capsys.readouterr().err) and "a.png" in said
    assert table.read_text() == "precious"


@pytest.mark.parametrize("folder", ["train", "val"])
def test_images_that_the_index_cannot_read_are_told_before_the_start(tiny, tmp_path, shapes, folder, runs):
    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    for name in ("bar/003.png", "dot/005.png"):
        (root / folder / name).write_bytes(b"no image")
    options = ["--stages", "[pretrain, semi]", "--data.root", str(root), "--data.max_bad", "1"]
    with pytest.raises(
        UserError, match=r"^2 images cannot be read, such as .*/bar/003\.png, and .*max_bad is 1"
    ):
        runs.train(tiny(*options))
    assert not (tmp_path / "run" / "checkpoints").exists()
    context = RunContext(tiny(*options, "--data.max_bad", "2"))
    check_images(context, context.config.stages)
    context = RunContext(tiny(*options))
    if folder == "val":
        check_images(context, ["pretrain"])  # which evaluates nothing
