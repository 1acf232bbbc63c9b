"""Stages that begin with smaller views: what their steps see, and that they resume to the bit."""

import pytest
import torch

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.training.stage_batches import stage_batches
from fastsemi.training.trainer import Interrupted

CNN = ("--stages", "[finetune, semi]", "--model.name", "resnet10t", "--model.args", "{}")
SIZES = ("--finetune.image_sizes", "[8, 16]", "--semi.image_sizes", "[8, 12, 16]")
VIT = ("--stages", "[finetune, semi]", "--model.args.dynamic_img_size", "true")


def sides(run, stage, steps):
    """Side of the views of each step."""
    found = []
    with stage_batches(stage, run.views, run.data.load, steps) as batches:
        for batch in batches:
            shapes = {part.images.shape[2:4] for part in batch.values()}
            assert len(shapes) == 1
            found.append(shapes.pop()[0])
    return found


@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_stages_batches_have_the_sizes(tiny, engine):
    config = tiny(*CNN, "--stages", "[semi]", *SIZES, "--loader.engine", engine, "--semi.micro_batches", "2")
    run = RunContext(config)
    try:
        stage = build_stage(run, "semi", fresh=True)
        expected = [side for side in (8, 8, 8, 12, 12, 12, 16, 16) for _ in range(2)]
        assert sides(run, stage, range(8)) == expected
        assert sides(run, stage, range(4, 8)) == expected[8:]
        assert {key[2] for key in run.data.batches._engines} == {16}
    finally:
        run.close()


@pytest.mark.parametrize(
    ("options", "engine", "stage", "step"),
    [
        (CNN, "native", "semi", 2),
        (CNN, "reference", "semi", 4),
        (CNN, "native", "finetune", 2),
        (VIT, "native", "semi", 2),
    ],
)
def test_a_run_stopped_before_a_change_ends_like_an_uninterrupted_one(
    tiny, trained, runs, options, engine, stage, step
):
    sizes = SIZES if options is CNN else ("--semi.image_sizes", "[8, 12, 16]")
    options = (*options, *sizes, "--loader.engine", engine)
    whole, _ = trained(*options)
    cut = tiny(*options)
    with pytest.raises(Interrupted, match=f"step {step} of 8 of {stage}"):
        runs.train(cut, runs.Quiet(stage, step))
    runs.train(cut)
    runs.assert_equal(runs.weights(whole), runs.weights(cut))


def test_smaller_views_train_another_network(trained, runs):
    plain, _ = trained(*CNN)
    growing, _ = trained(*CNN, *SIZES, "--loader.engine", "native")
    a, b = runs.weights(plain), runs.weights(growing)
    assert a.keys() == b.keys() and not all(torch.equal(a[name], b[name]) for name in a)


def test_the_command_trains_and_refuses_other_sizes_on_resuming(tiny, tmp_path, capsys):
    tiny()
    words = ["train", "--config", str(tmp_path / "tiny.yaml"), *CNN]
    assert main([*words, *SIZES]) == 0
    capsys.readouterr()
    assert main([*words, *SIZES, "--semi.image_sizes", "[12, 16]"]) == 2
    said = capsys.readouterr().err
    assert "semi.image_sizes" in said and len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--semi.image_sizes", "[16, 8]"),
            r"semi\.image_sizes is \(16, 8\); it must ascend, from 1 pixel on",
        ),
        (("--semi.image_sizes", "[0, 16]"), "it must ascend"),
        (
            ("--finetune.image_sizes", "[8, 12]"),
            r"finetune\.image_sizes ends with 12, and data\.i",
        ),
        (("--semi.image_sizes", "[8, 16]", "--plan.replay", "a"), r"set semi\.image_sizes to \[\]"),
        (
            ("--semi.image_sizes", "[8, 16]", "--compile.enabled", "true", "--compile.cuda_graphs", "true"),
            r"compile\.cuda_graphs replays steps of one image size",
        ),
        (("--pretrain.image_sizes", "[8, 16]"), r"unknown key pretrain\.image_sizes"),
    ],
)
def test_wrong_settings_are_refused(tiny, options, message):
    with pytest.raises(UserError, match=message):
        tiny(*options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--semi.image_sizes", "[8, 16]"),
            r"semi\.image_sizes has 8, and vit_tiny_patch16_224 ",
        ),
        (
            ("--model.args.dynamic_img_size", "true", "--semi.image_sizes", "[10, 16]"),
            r"semi\.image_sizes has 10, and vit_tiny_patch16_224 does not take .*\(Input .*dynamic_img_size",
        ),
        (
            (*CNN, "--semi.image_sizes", str(list(range(8, 17)))),
            r"no more sizes than semi\.length has steps, which is 8",
        ),
        (
            (*CNN, "--finetune.image_sizes", "[8, 16]", "--finetune.batch", "1"),
            r"finetune\.batch gives resnet10t one image of 8 pixels at a time",
        ),
        (
            (*CNN, "--finetune.batch", "2", "--finetune.micro_batches", "2"),
            r"finetune\.batch over finetune\.micro_batches gives resnet10t one image of 16 pixels",
        ),
    ],
)
def test_what_a_network_or_a_stage_cannot_do_is_refused_before_anything_is_trained(
    tiny, runs, options, message
):
    config = tiny("--stages", "[finetune, semi]", *options)
    with pytest.raises(UserError, match=message):
        runs.train(config)
    assert not (config.output / "checkpoints").exists()
