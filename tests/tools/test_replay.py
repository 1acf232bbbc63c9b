"""`fastsemi replay`: the images and views of a step as training has them."""

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.run.run import Run
from fastsemi.stages.finetune import Finetune
from fastsemi.tools.replay import replay


def test_a_step_is_what_it_was_in_training(tiny, monkeypatch, tmp_path, capsys):
    config = tiny("--stages", "[finetune]", "--finetune.micro_batches", "2", "--finetune.length", "3 steps")
    loss, seen = Finetune.loss, []

    def remembered(stage, batch):
        part = batch["labelled"]
        seen.append((part.ids.tolist(), stage._views.augment(part, 0).numpy()))
        return loss(stage, batch)

    monkeypatch.setattr(Finetune, "loss", remembered)
    Run(config, Progress(Console(quiet=True))).train(["finetune"])
    monkeypatch.undo()
    ids, views = seen[2 * 2 + 1]  # the second micro-batch of step 2
    found = replay(config, "finetune", 2, micro=1, count=3)
    assert len(found.images) == len(ids) == 6 and len(found.drawn) == 3
    for (image, pictures), pixels in zip(found.drawn, views, strict=False):
        assert image in found.images and list(pictures) == ["labelled"]
        np.testing.assert_array_equal(pictures["labelled"], pixels)
    assert len(replay(config, "finetune", 2, micro=None, count=1).images) == 12
    for step, micro, count, match in (
        (3, None, 1, "step 3 is not within the 3"),
        (0, 2, 1, "--micro 2"),
        (0, 0, 0, "--count 0"),
    ):
        with pytest.raises(UserError, match=match):
            replay(config, "finetune", step, micro=micro, count=count)
    with pytest.raises(UserError, match="has no stage semi"):
        replay(config, "semi", 0, micro=None, count=1)

    png = tmp_path / "step.png"
    assert main(["replay", str(config.output), "2", "--png", str(png), "--micro", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{i.role}\t1\t{i.name}" for i in found.images] + [str(png)]
    assert Image.open(png).height > 6 * 200


def test_where_no_run_is(tmp_path, capsys):
    assert main(["replay", str(tmp_path), "0"]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert main(["replay", str(tmp_path), "many"]) == 2
    assert "invalid int value" in capsys.readouterr().err
