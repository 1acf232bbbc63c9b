"""`fastsemi evaluate` and `predict` in several processes, and commands that are for one."""

import shutil

import pytest
import torch

from fastsemi.commands import cli
from fastsemi.models.create import create_model
from fastsemi.models.timm_folder import export_timm
from fastsemi.run import config as configuration


@pytest.fixture
def trained(preset, shapes, tmp_path):
    """A run directory with a network, and options that name it; 29 evaluation images, one of them broken."""
    root = tmp_path / "data"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "009.png").unlink()
    (root / "val" / "bar" / "004.png").write_bytes(b"no picture")
    folder, words = preset("run")
    options = [*words[1:], "--data.root", str(root), "--eval_batch", "7", "--data.max_bad", "1"]
    config = configuration.load([options[1]], options[2:])
    torch.manual_seed(0)
    export_timm(
        create_model(config.model, num_classes=3, image_size=16),
        folder / "model",
        config=config.model,
        class_names=("bar", "cross", "dot"),
        image_size=16,
        mean=config.data.mean,
        std=config.data.std,
        crop=1.0,
    )
    return folder, options


def test_evaluation_of_several_processes_is_that_of_one(trained, processes, tmp_path, capfd):
    """29 images in batches of 7: of two processes one has a batch more, of five each has one."""
    _, options = trained
    assert cli.main(["evaluate", *options]) == 0
    said = capfd.readouterr().out
    one = said.splitlines(keepends=True)[0]
    assert one.endswith(", 28 evaluation images\n") and "NLL" in said
    for world in (2, 5):
        codes, said = processes.run(world, ["evaluate", *options], tmp_path / f"{world}.log")
        assert codes == [0] * world, said
        lines = [line for text in said for line in text.splitlines(keepends=True) if "top-1" in line]
        assert lines == [one] and lines[0] in said[0]


def test_predictions_of_several_processes_are_those_of_one(trained, processes, tmp_path, capfd):
    _, options = trained
    images = str(tmp_path / "data" / "val")
    table = tmp_path / "one.csv"
    assert cli.main(["predict", *options, images, "--csv", str(table)]) == 0
    one = table.read_text().splitlines()
    assert len(one) == 1 + 28 and [line.split(",")[0] for line in one[1:]] == sorted(
        line.split(",")[0] for line in one[1:]
    )
    for world in (2, 5):
        table = tmp_path / f"{world}.csv"
        words = ["predict", *options, images, "--csv", str(table)]
        codes, said = processes.run(world, words, tmp_path / f"{world}.log")
        assert codes == [0] * world, said
        assert sum(f"28 predictions in {table}" in text for text in said) == 1
        for mine, theirs in zip(one, table.read_text().splitlines(), strict=True):
            *mine, confidence = mine.split(",")
            *theirs, other = theirs.split(",")
            assert mine == theirs
            assert confidence == other or float(confidence) == pytest.approx(float(other), abs=1e-4)


def test_too_many_broken_images_of_all_processes_are_refused(trained, processes, tmp_path):
    _, options = trained
    (tmp_path / "data" / "val" / "bar" / "007.png").write_bytes(b"nor this one")
    codes, said = processes.run(2, ["evaluate", *options], tmp_path / "log")
    assert codes == [2, 2], said
    errors = [line for text in said for line in text.splitlines() if "error:" in line]
    assert len(errors) == 1 and "2 images cannot be decoded" in errors[0] and "data.max_bad is 1" in errors[0]


def test_a_run_without_a_network_is_reported_once(preset, processes, tmp_path):
    _, words = preset("empty")
    codes, said = processes.run(2, ["evaluate", *words[1:]], tmp_path / "log")
    assert codes == [2, 2] and "".join(said).count("holds no trained model") == 1, said


def test_a_command_for_one_process_refuses_several(processes, tmp_path):
    codes, said = processes.run(2, ["doctor"], tmp_path / "log")
    assert codes == [2, 2], said
    assert said[0] == (
        "fastsemi: error: doctor runs in one process, and torchrun started 2; run it without torchrun\n"
    )
    assert not said[1]
