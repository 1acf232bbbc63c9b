"""`compat`: what it sets, what wins over it, and what the settings do."""

import hashlib

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.common.schedule import CosineSchedule
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.plan.arrays import to_arrays
from fastsemi.loaders.plan.draws import AugmentConfig, View
from fastsemi.loaders.plan.mixing import MixConfig
from fastsemi.loaders.stream import Stream
from fastsemi.models.create import create_model
from fastsemi.models.settings import ModelConfig
from fastsemi.models.weights import load_backbone
from fastsemi.run.build import build_stage
from fastsemi.run.compat import official
from fastsemi.run.config import Config, known_keys, load, plain, to_yaml
from fastsemi.run.context import RunContext
from fastsemi.run.fingerprint import changes, fingerprint
from fastsemi.run.python_keys import from_python
from fastsemi.run.run import Run


def _value(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def test_official_sets_what_is_not_given(tmp_path):
    ours, theirs = load([], []), load([], ["--compat", "official"])
    changed = {key for key in known_keys() if _value(ours, key) != _value(theirs, key)}
    settings = official("prob")
    assert {key for key, value in settings.items() if value != _value(ours, key)} == {
        key for key in changed if key in settings
    }
    assert all(_value(theirs, key) == value for key, value in settings.items())
    file = tmp_path / "mine.yaml"
    file.write_text("compat: official\nsemi: {mix: {box: exact}}\n")
    config = load([file], ["--model.fc_norm", "kept", "--finetune.mix", "{mixup: 0.5, per_batch: false}"])
    assert (config.semi.mix.box, config.semi.labelled_mix.box, config.model.fc_norm) == (
        "exact",
        "even",
        "kept",
    )
    assert config.finetune.mix == MixConfig(0.5, box="even", partners="reversed"), "as of a file"
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    assert load([tmp_path / "again.yaml"], []) == config
    assert load([file], ["--compat", "fastsemi"]).semi == Config().semi


def test_choices_of_a_configuration_that_gives_every_key_cannot_be_changed(tmp_path):
    ours, file = load([], []), tmp_path / "config.yaml"
    file.write_text(to_yaml(ours))
    with pytest.raises(UserError, match=r"compat is official, and .*config.yaml gives every key itself"):
        load([file], ["--compat", "official"])
    with pytest.raises(UserError, match="the configuration gives every key itself"):
        from_python(ours, {"compat": "official"})
    with pytest.raises(UserError, match="start from the preset"):
        from_python({"base": file, "compat": "official"}, {})
    assert load([file], ["--compat", "fastsemi", "--seed", "0"]) == from_python(ours, {}) == ours


def test_one_weight_for_a_batch_is_of_mode_pseudo():
    modes = ("none", "pseudo", "pseudo_plus", "prob")
    found = [load([], ["--compat", "official", "--semi.mixing", mode]).semi.mix.per_batch for mode in modes]
    assert found == [False, True, False, False]
    smoothing = [load([], ["--compat", "official", "--semi.mixing", mode]).semi for mode in modes]
    assert [semi.pseudo_label_smoothing for semi in smoothing] == [0.0, 0.1, 0.1, 0.1]
    assert load([], ["--semi.mixing", "none"]).semi.pseudo_label_smoothing == 0.1


def test_runs_begun_without_the_key_go_on_as_fastsemi():
    now = fingerprint(Config(), "semi", ["finetune"])
    new = official("prob")
    then = {key: value for key, value in now.items() if key not in new}
    assert set(now) - set(then) >= {"semi.drop_last", "finetune.mix.box", "model.fc_norm"}
    assert changes({**then, "compat": "official"}, now) == [], "each key that it decides is compared itself"
    assert "semi.drop_last: False, now True" in changes(
        then, fingerprint(load([], ["--compat", "official"]), "semi", ["finetune"])
    )


def test_plans_and_rates_of_fastsemi_are_what_they_always_were(shapes, tmp_path):
    """Digests and numbers of the version before `compat` was there."""
    index = build_index(shapes / "train", has_classes=True, cache_dir=tmp_path)
    views = {
        View.WEAK: AugmentConfig(color_jitter=0.4, randaugment="", erase=0.0),
        View.STRONG: AugmentConfig(),
    }
    stream = Stream(index, np.arange(len(index)), 48, 2, views, MixConfig(1.0, 1.0), 5, 16, "unlabelled")
    digest = hashlib.sha256()
    for step in (0, 2, 7):
        for micro in (0, 1):
            for name, array in sorted(to_arrays(stream.plan(step, micro)).items()):
                if array.dtype.kind in "iub" and not name.endswith("even"):
                    digest.update(name.encode() + array.astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == GOLDEN
    schedule = CosineSchedule(1.0, 0.1, 4, 8)
    assert [schedule.lr(k) for k in range(8)] == pytest.approx(
        [0.325, 0.55, 0.775, 1.0, 1.0, 0.775, 0.325, 0.1]
    )


GOLDEN = "387396272730b93d"


def test_a_norm_behind_the_average_starts_fresh(vit_pair):
    model, weights = vit_pair
    nn.init.constant_(model.fc_norm.weight, 3.0)
    report = load_backbone(model, weights, where="x", fresh_norm=True)
    assert (model.fc_norm.weight == 3.0).all() and "fc_norm.weight" in report.initial
    assert {"norm.weight", "norm.bias"} <= {*report.dropped}
    load_backbone(model, weights, where="x")
    assert torch.equal(model.fc_norm.weight, weights["norm.weight"])
    load_backbone(
        model, {**model.state_dict(), "fc_norm.bias": weights["norm.bias"]}, where="x", fresh_norm=True
    )
    assert torch.equal(model.fc_norm.bias, weights["norm.bias"]), "one by its own name is the network's"


@pytest.fixture
def vit_pair():
    args = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    token, average = (ModelConfig("vit_tiny_patch16_224", args, pool) for pool in ("token", "avg"))
    source = create_model(token, num_classes=3, image_size=16)
    nn.init.normal_(source.norm.weight)
    nn.init.normal_(source.norm.bias)
    return create_model(average, num_classes=3, image_size=16), source.state_dict()


def test_class_tokens_from_scratch():
    args = {"patch_size": 4, "embed_dim": 768, "depth": 1, "num_heads": 2}
    config = ModelConfig("vit_tiny_patch16_224", args, class_token_std=0.02)
    assert 0.015 < create_model(config, num_classes=3, image_size=16).cls_token.std() < 0.025
    create_model(ModelConfig("resnet18", class_token_std=0.02), num_classes=3, image_size=16)
    with pytest.raises(UserError, match="class_token_std"):
        ModelConfig(class_token_std=-1.0)


def test_the_student_starts_from_the_weights_and_the_teacher_from_their_average(tiny):
    options = ("--finetune.ema", "0.9", "--train.select", "last", "--stages", "[finetune, semi]")
    config = tiny(*options, "--semi.student_start", "weights")
    Run(config, Progress(Console(quiet=True))).train(["finetune"])
    run = RunContext(config)
    both = RunContext(tiny(*options))
    Run(
        tiny(*options, "--output", str(config.output.parent / "average")), Progress(Console(quiet=True))
    ).train(["finetune"])
    average = torch.load(config.output.parent / "average/checkpoints/finetune_result.pt", weights_only=True)
    assert "weights" not in average, "which nothing reads"
    try:
        stage, same = build_stage(run, "semi"), build_stage(both, "semi")
    finally:
        run.close()
        both.close()
    state = torch.load(run.folder.result("finetune"), weights_only=True)
    assert not torch.equal(state["weights"]["head.weight"], state["model"]["head.weight"])
    for name, start in (("weights", stage.model), ("model", stage.teacher.model), ("model", same.model)):
        for key, tensor in start.state_dict().items():
            assert torch.equal(tensor, state[name][key]), key


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        (["--train.select", "best"], "set train.select to last"),
        (
            ["--train.select", "last", "--model.adapt", "head", "--model.weights", "x"],
            "student_start to average",
        ),
    ],
)
def test_starts_that_cannot_be_are_refused(options, cure):
    with pytest.raises(UserError, match=cure):
        load([], ["--semi.student_start", "weights", "--finetune.ema", "0.9", *options])


def test_pretraining_as_published(tiny):
    """Xavier's bounds and zero biases in encoder and decoder, and one epsilon."""
    config = tiny("--compat", "official", "--stages", "[pretrain]")
    run = RunContext(config)
    try:
        model = build_stage(run, "pretrain").model
    finally:
        run.close()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "encoder.head":
            bound = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.8 * bound < module.weight.abs().max() <= bound and not module.bias.any(), name
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-6, name
    kernel = model.encoder.patch_embed.proj.weight
    assert kernel.abs().max() <= (6 / (kernel[0].numel() + len(kernel))) ** 0.5
    assert plain(config)["pretrain"]["as_published"]
