"""Whole runs on real image files: what they leave, and that they are the same again."""

import csv
import fcntl
import json
import shutil
from contextlib import ExitStack

import numpy as np
import pytest
import timm
import torch

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder
from fastsemi.run.lock import _try_lock, locked
from fastsemi.run.run import Run


def test_a_run_leaves_everything_behind(trained, capsys, tmp_path, shapes, runs):
    config, summary = trained()
    folder = config.output
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert set(summary["stages"]) == {"pretrain", "finetune", "semi"}
    assert {"top1", "top5", "images_per_s", "seconds"} <= set(summary["stages"]["finetune"])
    assert {"student_top1", "student_top5", "teacher_top1", "teacher_top5"} <= set(summary["stages"]["semi"])
    rows = runs.rows(config)
    steps = [row["step"] for row in rows if row["stage"] == "semi" and "loss" in row]
    assert steps == [2, 4, 6, 8]
    last = [row for row in rows if row["stage"] == "semi" and "loss" in row][-1]
    assert {"acceptance", "pseudo_label_accuracy", "pseudo_label_recall", "loader_wait", "lr"} <= set(last)
    assert any((folder / "tensorboard").iterdir())

    model = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    stage = build_stage(RunContext(config), "semi", fresh=True)
    stage.model.load_state_dict(runs.weights(config))
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), stage.model.eval()(images), rtol=0, atol=0)
    assert model.pretrained_cfg["label_names"] == ["bar", "cross", "dot"]

    output = ["--output", str(folder)]
    assert main(["evaluate", *output]) == 0
    assert f"top-1 {summary['stages']['semi']['teacher_top1']:.2f} %" in capsys.readouterr().out
    table = tmp_path / "out.csv"
    assert main(["predict", str(shapes / "val"), "--csv", str(table), *output]) == 0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 30 and {row["class"] for row in rows} <= {"bar", "cross", "dot"}
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in rows)
    right = np.mean([row["class"] == row["path"].split("/")[-2] for row in rows])
    assert 100 * right == pytest.approx(summary["stages"]["semi"]["teacher_top1"])
    beton = str(tmp_path / "val.beton")
    assert main(["data", "beton", beton, "--images", str(shapes / "val"), "--mode", "raw"]) == 0
    assert main(["predict", beton, "--csv", str(table), *output]) == 0
    packed = list(csv.DictReader(table.open()))
    assert [row["class"] for row in packed] == [row["class"] for row in rows]
    assert packed[0]["path"] == f"{beton}/bar/000.png"
    picture = tmp_path / "views.png"
    assert main(["views", "--png", str(picture), "--count", "3", *output]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_command_gives_the_same_bits_with_any_number_of_loader_threads(
    trained, tiny, tmp_path, runs
):
    """With the same number too: runs that were interrupted are compared with others."""
    two, _ = trained()
    five = tiny("--loader.threads", "5", "--loader.prefetch", "1")
    runs.train(five)
    runs.assert_equal(runs.weights(two), runs.weights(five))
    seed = tiny("--output", str(tmp_path / "other"), "--seed", "1", "--stages", "[pretrain]")
    runs.train(seed)
    a, b = (runs.weights(config, "pretrain") for config in (two, seed))
    assert any(not torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mixing", ["none", "pseudo", "pseudo_plus", "prob"])
def test_every_mixing_trains_and_fixmatch_is_momentum_zero(tiny, mixing, runs):
    config = tiny(
        "--stages", "[semi]", "--semi.mixing", mixing, "--semi.momentum", "0", "--semi.length", "4 steps"
    )
    runs.train(config)
    stored = runs.stored(config, "semi")
    model = {name: tensor for name, tensor in stored.items() if name.startswith("model.")}
    runs.assert_equal(model, {name: stored[name.replace("model.", "extra.teacher.", 1)] for name in model})


def test_pretraining_needs_no_labels_and_survives_a_change_of_labels(tiny, runs):
    none = ["--data.labels.per_class", "null"]
    summary = runs.train(tiny("--stages", "[pretrain]", *none))
    assert summary["stages"]["pretrain"]["steps"] == 8
    assert runs.train(tiny("--stages", "[pretrain]", "--data.labels.per_class", "3")) == summary


def test_a_stage_without_its_predecessor_says_what_to_run(tiny, runs):
    with pytest.raises(UserError, match="semi starts from finetune, which has not finished"):
        Run(tiny(), runs.Quiet()).train(["semi"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--finetune.batch", "13"], "labelled batch of 13"),
        (["--semi.unlabelled_ratio", "30"], "unlabelled batch of 180"),
        (["--semi.warmup", "8 steps"], r"semi\.warmup is 8 steps; it must be shorter"),
        (["--data.val", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_found_before_the_first(tiny, options, message, runs):
    config = tiny(*options)
    with pytest.raises(UserError, match=message):
        runs.train(config)
    assert not (config.output / "checkpoints").exists()


def test_two_processes_do_not_share_a_run_directory(tiny, runs):
    config = tiny("--stages", "[finetune]")
    with locked(RunFolder(config.output)), pytest.raises(UserError, match="another process trains in"):
        runs.train(config)
    assert not config.output.exists(), "neither wrote anything"
    config.output.mkdir()
    with locked(RunFolder(config.output)):
        pass
    assert config.output.is_dir(), "not made here"


def test_a_lock_that_was_removed_with_its_directory_is_not_held(tmp_path, monkeypatch):
    """As where the run that held it is refused between another one's opening and locking of the file."""
    folder, lock = RunFolder(tmp_path / "run"), fcntl.flock

    def refused_meanwhile(file, how):
        monkeypatch.setattr(fcntl, "flock", lock)
        shutil.rmtree(folder.path)
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", refused_meanwhile)
    with ExitStack() as held:
        assert not _try_lock(folder, held)
        assert _try_lock(folder, held) and folder.lock.exists()
        assert not _try_lock(folder, held)
    with locked(folder):
        pass


def test_nothing_that_is_not_finite_is_saved(tiny, runs):
    config = tiny(
        "--stages", "[finetune]", "--finetune.base_lr", "1e30", "--finetune.checkpoint_every", "1 steps"
    )
    with pytest.raises(UserError, match="not finite at step"):
        runs.train(config)
    assert all(tensor.isfinite().all() for tensor in runs.stored(config, "finetune").values())
