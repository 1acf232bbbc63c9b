"""Runs whose semi stage has a contrastive term, spreads labels, or starts from the probe."""

import json

import pytest
import torch
from torch.testing import assert_close

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress, QuietConsole
from fastsemi.probing.probe import Prober
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file

BOTH = ("--semi.contrast", "0.5", "--semi.spread_weight", "0.5", "--semi.spread_every", "2 steps")


def run(config):
    return Run(config, Progress(QuietConsole(quiet=True)))


def weights(config):
    return checkpoint_file.load(RunFolder(config.output).result("semi"))["model"]


def test_contrast_and_spreading_train_a_plain_network(tiny):
    config = tiny("--stages", "[finetune, semi]", *BOTH)
    summary = run(config).train(["finetune", "semi"])
    assert {"student_top1", "teacher_top1"} <= summary["stages"]["semi"].keys()
    kept = checkpoint_file.load(RunFolder(config.output).result("finetune"))["model"]
    assert weights(config).keys() == kept.keys(), "the projector does not go into the result"
    rows = [json.loads(line) for line in RunFolder(config.output).metrics.read_text().splitlines()]
    assert all(row["loss_contrast"] > 0 for row in rows if row["stage"] == "semi" and "loss" in row)


def test_a_semi_stage_alone_starts_from_the_probe(tiny, tmp_path):
    """Its head is that which `head probe` of fine-tuning starts from."""
    config = tiny("--output", str(tmp_path / "a"), "--stages", "[pretrain, semi]", "--semi.head", "probe")
    run(config).train(["pretrain"])
    context = RunContext(config)
    stage = build_stage(context, "semi")
    prober = Prober(context.data, context.views, context.precision, batch=8)
    network = build_stage(context, "semi").model
    flip = config.semi.augment.flip
    head, _ = prober.head(network, views=config.semi.head_views, flip=flip, seed=config.seed)
    context.close()
    assert_close(stage.model.get_classifier().weight.detach(), torch.from_numpy(head.weight))


def test_a_head_cannot_be_kept_and_replaced(tiny, tmp_path):
    first = tiny("--output", str(tmp_path / "first"), "--stages", "[finetune]")
    run(first).train(["finetune"])
    options = (
        "--model.weights",
        str(RunFolder(first.output).result("finetune")),
        "--model.keep_head",
        "true",
    )
    config = tiny("--output", str(tmp_path / "a"), "--stages", "[semi]", "--semi.head", "probe", *options)
    with pytest.raises(UserError, match=r"semi\.head probe replaces it"):
        run(config).train(["semi"])


def test_a_network_without_patches_is_refused_before_anything_is_trained(tiny):
    network = ("--model.name", "resnet10t", "--semi.keep_tokens", "0.5")
    config = tiny("--stages", "[finetune, semi]", *network)
    with pytest.raises(UserError, match=r"semi\.keep_tokens is 0\.5, and resnet10t cannot leave patches out"):
        run(config).train(["finetune", "semi"])
    assert not RunFolder(config.output).result("finetune").exists()


@pytest.mark.parametrize("name", ["resnet10t", "beit_base_patch16_224"])
def test_a_network_whose_tokens_cannot_be_merged_is_refused_before_anything_is_trained(tiny, name):
    network = ("--model.name", name, "--model.args", "{}", "--data.image_size", "32")
    config = tiny("--stages", "[finetune, semi]", *network, "--semi.merge_tokens", "4")
    with pytest.raises(UserError, match=r"^semi\.merge_tokens is 4, but (ResNet|Beit) .*; set it to 0$"):
        run(config).train(["finetune", "semi"])
    assert not RunFolder(config.output).result("finetune").exists()
