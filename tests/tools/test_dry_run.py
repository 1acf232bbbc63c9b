"""`--dry_run` of every preset, and what it prints against a real run."""

import dataclasses
import io
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from fastsemi.commands import cli
from fastsemi.common.errors import UserError
from fastsemi.run import config as configuration
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.tools.estimate.dry_run import dry_run, show
from fastsemi.training.optim import create_optimizer

pytestmark = pytest.mark.usefixtures("measured_once")
ROOT = Path(__file__).parents[2] / "configs"
SHARED = ("base", "base_10p", "base_1p")
PRESETS = sorted(
    p for folder in ("imagenet", "transfer") for p in (ROOT / folder).glob("*.yaml") if p.stem not in SHARED
)
ABSENT = Namespace(train_images=None, classes=None, unlabelled_images=None)
# Images of the data sets: ImageNet-1k, Food-101, iNaturalist 2019, and the paper's table 11.
IMAGES = {"food101": (75_750, 101), "inaturalist": (265_213, 1010), "google_landmark": (200_000, 256)}


# A few blocks do for presets whose network another preset has, or a larger one, with no fewer images at once.
SMALLER = {
    **{f"vit_{size}_1p": f"vit_{size}_10p" for size in ("small", "base", "large", "huge")},
    **{f"{name}_1p": "vit_base_10p" for name in ("food101", "google_landmark", "inaturalist")},
    "vit_small_scratch_10p": "vit_base_scratch_10p",
    "convnext_tiny_scratch_10p": "convnext_small_scratch_10p",
}
FEW = {
    "vit": ("--model.args.depth", "4"),
    "convnext": ("--model.args.depths", "[1, 1, 1, 1]"),
}


def load(preset, *options):
    return configuration.load([preset], options)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_every_preset_runs_dry(preset, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # where there is no data
    config = load(preset)
    if preset.stem in SMALLER:
        larger = load(ROOT / "imagenet" / f"{SMALLER[preset.stem]}.yaml")
        for name in config.stages:
            own, other = getattr(config, name), getattr(larger, name)
            assert own.batch / own.micro_batches <= other.batch / other.micro_batches
        config = load(preset, *FEW[config.model.name.partition("_")[0]])
    stages, sizes = dry_run(config, config.stages, ABSENT)
    images, classes = IMAGES.get(config.data.root.name, (1_281_167, 1000))
    assert [stage.plan.name for stage in stages] == list(config.stages) and "not counted" in sizes
    for stage in stages:
        settings = getattr(config, stage.plan.name)
        first, peak, last = stage.plan.rates()
        assert peak == pytest.approx(settings.base_lr * settings.batch / 256)
        assert last == pytest.approx(settings.min_lr, abs=1e-3 * peak)
        main = next(iter(stage.plan.streams.values()))
        labelled = classes * max(1, round((config.data.labels.fraction or 0) * images / classes))
        expected = {"pretrain": images, "finetune": labelled, "semi": images - labelled}[stage.plan.name]
        batch = settings.batch * (5 if stage.plan.name == "semi" else 1)
        assert (len(main.ids), main.batch) == (expected, batch)
        assert stage.plan.steps == settings.length.value * (expected // batch)
        assert first == 0.0, "the first step has the rate that is due at its start"
        fixed = stage.parameters - stage.trained  # position embeddings
        assert (fixed > 0) == (config.model.pos_embed == "sincos") and fixed < 0.01 * stage.parameters
        assert stage.memory.total < 80 * 10**9
    out = io.StringIO()
    show(stages, sizes, Console(file=out, width=120))
    text = out.getvalue()
    for wanted in (stages[-1].parameters, stages[-1].trained, stages[-1].plan.steps):
        assert f" {wanted:,} " in text


# One of each kind: with and without weights, teacher, mixing and labels; of another network; of other images.
KINDS = ("vit_huge_1p", "vit_base_scratch_10p", "convnext_tiny_scratch_10p", "mae_vit_base", "food101_10p")


@pytest.mark.parametrize("preset", [p for p in PRESETS if p.stem in KINDS], ids=lambda p: p.stem)
def test_the_printed_config_of_a_preset_is_complete(preset, capsys, tmp_path):
    assert cli.main(["train", "--config", str(preset), "--print_config"]) == 0
    text = capsys.readouterr().out
    tree = yaml.safe_load(text)
    missing = [key for key in configuration.known_keys() if not _has(tree, key)]
    assert not missing
    copy = tmp_path / "copy.yaml"
    copy.write_text(text)
    assert load(copy) == load(preset)


def _has(tree, key):
    for part in key.split("."):
        if part not in tree:
            return False
        tree = tree[part]
    return True


def test_numbers_are_those_of_a_real_run(tiny):
    config = tiny("--device", "cpu", "--finetune.ema", "0.9")
    stages, sizes = dry_run(config, config.stages, ABSENT)
    assert sizes == f"counted in {config.data.root}; memory on this CPU in float32"
    run = RunContext(dataclasses.replace(config, stages=("finetune", "semi")))
    try:
        for dry in stages[1:]:
            stage = build_stage(run, dry.plan.name, fresh=True)
            optimizer = create_optimizer(stage.model, weight_decay=0.05, layer_decay=0.65, betas=(0.9, 0.999))
            assert dry.parameters == sum(p.numel() for p in stage.model.parameters())
            assert dry.groups == len(optimizer.param_groups)
            assert dry.plan.steps == stage.schedule.total_steps
            assert dry.plan.rates()[0] == stage.schedule.lr(0)
            assert {k: len(v.ids) for k, v in dry.plan.streams.items()} == {
                k: len(v.stream.ids) for k, v in stage.roles.items()
            }
            assert dry.memory.parameters == sum(p.nbytes for p in stage.model.parameters())
    finally:
        run.close()
    assert not config.output.exists(), "a dry run writes nothing"


def test_the_command_needs_no_data(tiny, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    preset = ROOT / "imagenet/vit_small_1p.yaml"
    assert cli.main(["semi", "--dry_run", "--config", str(preset)]) == 0
    out = capsys.readouterr().out
    assert "1,268,167" in out and "22,050,664" in out and "finetune" not in out


COUNTS = ("--train_images", "40000", "--classes", "10")
RESNET = ("--model.name", "resnet18", "--model.pool", "default", "--finetune.layer_decay", "1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "elsewhere is not here and its size is not known; give --train_images and --classes"),
        (("--train_images", "0"), "--train_images is 0; it must be at least 1"),
        ((*COUNTS, "--data.unlabeled", "more"), "give --unlabelled_images"),
        (
            ("--train_images", "400", "--classes", "10", "--finetune.batch", "512"),
            "batch of 512 is larger than its data of 40 images",
        ),
        (
            (*COUNTS, "--data.labels.fraction", "null", "--data.labels.file", "l.csv"),
            "data.labels.file l.csv lists images of data that is not",
        ),
        (
            (*COUNTS, *RESNET, "--model.activation_checkpointing", "true"),
            "would update the batch norm of resnet18 twice a step",
        ),
    ],
)
def test_wrong_input_ends_with_one_line(options, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    preset = str(ROOT / "imagenet/vit_small_10p.yaml")
    assert cli.main(["train", "--dry_run", "--config", preset, "--data.root", "elsewhere", *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_the_pretrain_stage_needs_a_vit(tiny):
    config = tiny("--model.name", "resnet18", "--model.pool", "default", "--model.args", "{}")
    with pytest.raises(UserError, match="needs a ViT"):
        dry_run(config, ["pretrain"], ABSENT)
