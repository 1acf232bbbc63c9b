"""`fastsemi estimate`: operations against formulas, hours against arithmetic, one line for wrong input."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

from fastsemi.commands import cli
from fastsemi.run import config as configuration
from fastsemi.tools.estimate.gpus import GPUS
from fastsemi.tools.estimate.sizes import open_data

pytestmark = pytest.mark.usefixtures("measured_once")
IMAGENET = Path(__file__).parents[2] / "configs/imagenet"
SMALL = str(IMAGENET / "vit_small_10p.yaml")


def estimate(capsys, *options, config=SMALL):
    assert cli.main(["estimate", "--config", config, "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def vit_flops(tokens, dim, depth, patch, classes):
    """Two operations a multiply-add; in a block a token meets 12 D^2 weights and 2 N D numbers."""
    blocks = depth * tokens * (2 * 12 * dim**2 + 2 * 2 * tokens * dim)
    return blocks + 2 * (tokens - 1) * 3 * patch**2 * dim + 2 * dim * classes


@pytest.fixture
def step_flops(measured):
    """The function `step_flops(config, stage)`."""

    def count(config, stage):
        data, _ = open_data(config, Namespace(train_images=None, classes=None, unlabelled_images=None))
        return measured(config, stage, data).step_flops

    return count


@pytest.mark.parametrize(
    ("preset", "shape"),
    [("vit_small_10p", (197, 384, 12, 16, 1000)), ("vit_huge_10p", (257, 1280, 32, 14, 1000))],
)
def test_operations_of_a_vit(preset, shape, step_flops):
    """A backward pass is two forward ones, and fused attention computes its weights once more in it."""
    config = configuration.load([IMAGENET / f"{preset}.yaml"], [])
    forward = vit_flops(*shape)
    tokens, dim, depth, patch, _ = shape
    pixels = 2 * (tokens - 1) * 3 * patch**2 * dim  # whose gradient nobody asks for
    training = 3 * forward - pixels + depth * 2 * tokens**2 * dim
    labelled, unlabelled = config.semi.batch, config.semi.batch * config.semi.unlabelled_ratio
    expected = (labelled + unlabelled) * training + unlabelled * forward
    assert step_flops(config, "semi") == pytest.approx(expected, rel=1e-6)
    assert step_flops(config, "finetune") == pytest.approx(config.finetune.batch * training, rel=1e-6)


def test_checkpointing_computes_the_blocks_again(tiny, step_flops):
    kept, again = (
        step_flops(tiny("--model.activation_checkpointing", f), "finetune") for f in ("false", "true")
    )
    assert 1.2 * kept < again < 1.4 * kept


def test_patches_left_out_save_operations_of_the_student(tiny, step_flops):
    """Of unlabelled images it sees 8 of the 16 patches of 4 pixels, all of which are embedded."""
    config = tiny("--semi.keep_tokens", "0.5")
    shape = (32, 2, 4, 3)  # width, depth, patch, classes
    pixels = 2 * 16 * 3 * 4**2 * 32

    def training(tokens, left_out):
        fused = 2 * 2 * tokens**2 * 32
        return 3 * (vit_flops(tokens, *shape) + left_out * pixels / 16) - pixels + fused

    labelled, unlabelled = config.semi.batch, config.semi.batch * config.semi.unlabelled_ratio
    expected = labelled * training(17, 0) + unlabelled * (training(9, 8) + vit_flops(17, *shape))
    assert step_flops(config, "semi") == pytest.approx(expected, rel=1e-6)


def test_masking_saves_operations_of_the_encoder(step_flops):
    config = configuration.load([IMAGENET / "mae_vit_huge.yaml"], [])
    whole = 3 * vit_flops(257, 1280, 32, 14, 0) * config.pretrain.batch
    assert step_flops(config, "pretrain") < 0.45 * whole


def test_derived_hours_are_operations_over_the_assumed_rate(capsys, step_flops):
    got = estimate(capsys, "--stages", "[semi]", "--gpus", "4", "--gpu", "a100-80", "--utilisation", "0.5")[
        "stages"
    ]["semi"]
    config = configuration.load([Path(SMALL)], [])
    seconds = step_flops(config, "semi") / (4 * 0.5 * 312e12)
    assert got["images_per_s"]["origin"] == "derived" and "assumed" in got["images_per_s"]["how"]
    assert got["images_per_s"]["value"] == pytest.approx(640 / seconds)
    assert got["loader_images_per_s_per_node"]["value"] == pytest.approx(768 / seconds)
    assert got["steps"] == 100 * ((1_281_167 - 128_000) // 640)  # whole batches
    assert got["hours"]["value"] == pytest.approx(got["steps"] * seconds / 3600)
    assert got["micro_batches_per_gpu"] == 2 and got["fits"] and got["precision"] == "bfloat16"


def test_a_given_rate_counts_for_one_gpu_and_is_shared_by_nodes(capsys):
    options = ("--stages", "[semi]", "--gpus", "8", "--nodes", "2", "--images_per_s", "1000")
    got = estimate(capsys, *options)["stages"]["semi"]
    assert got["images_per_s"] == {**got["images_per_s"], "value": 8000.0, "origin": "given"}
    assert got["loader_images_per_s_per_node"]["value"] == pytest.approx(8000 * 768 / 640 / 2)
    assert got["hours"]["value"] == pytest.approx(got["steps"] * 640 / 8000 / 3600)


ROW = {
    "median": 750.0,
    "stage": "semi",
    "compiled": False,
    "entered": 80,
    "configuration": {
        "network": "vit_small_patch16_224",
        "labelled": 16,
        "unlabelled": 80,
        "image_size": 224,
        "precision": "bfloat16",
    },
    "hardware": {"gpu": "NVIDIA H100 80GB HBM3"},
}


def rows(tmp_path, **changes):
    file = tmp_path / "steps.json"
    configuration = {**ROW["configuration"], **changes.pop("configuration", {})}
    other = {**ROW, "stage": None, "median": 1.0}  # the step of something else than fastsemi
    file.write_text(json.dumps([other, {**ROW, "configuration": configuration, **changes}]))
    return ("--measured", str(file), "--gpus", "2")


def test_a_measured_rate_replaces_the_assumption(capsys, tmp_path):
    stages = estimate(capsys, *rows(tmp_path))["stages"]
    assert stages["semi"]["images_per_s"]["value"] == 1500.0
    assert stages["semi"]["images_per_s"]["origin"] == "measured"
    assert "NVIDIA H100 80GB HBM3" in stages["semi"]["images_per_s"]["how"]
    assert stages["finetune"]["images_per_s"]["origin"] == "derived"
    named = {"name": "any", "model": "any", "case": "any"}
    assert estimate(capsys, *rows(tmp_path, **named))["stages"] == stages, "what a row is called says nothing"


@pytest.mark.parametrize(
    "changes",
    [
        {"hardware": {"gpu": "NVIDIA H200"}},
        {"hardware": {"gpu": None}},
        {"stage": "finetune"},
        {"compiled": True},
        {"entered": 50},
        *(
            {"configuration": change}
            for change in (
                {"network": "vit_base_patch16_224"},
                {"labelled": 32},
                {"unlabelled": 112},
                {"precision": "float16"},
                {"precision": "float32"},
                {"image_size": 32},
            )
        ),
    ],
    ids=str,
)
def test_a_rate_of_something_else_is_not_taken(changes, capsys, tmp_path):
    got = estimate(capsys, "--stages", "[semi]", *rows(tmp_path, **changes))["stages"]["semi"]["images_per_s"]
    assert got["origin"] == "derived"
    wanted = "stage semi, network vit_small_patch16_224, compiled False, labelled 16, unlabelled 80"
    assert f"steps.json on one H100 80GB HBM3 is of {wanted}" in got["how"]


@pytest.mark.parametrize(
    "option", [("--model.activation_checkpointing", "true"), ("--model.args", '{"depth": 1}')]
)
def test_the_rate_of_timms_network_is_not_that_of_another(option, capsys, tmp_path):
    got = estimate(capsys, "--stages", "[semi]", *rows(tmp_path), *option)["stages"]["semi"]
    assert got["images_per_s"]["origin"] == "derived"


def test_a_gpu_is_not_taken_for_one_whose_name_begins_alike(capsys, tmp_path):
    options = rows(tmp_path, hardware={"gpu": "NVIDIA L40S"})
    for gpu, origin in (("l4", "derived"), ("l40s", "measured")):
        got = estimate(capsys, "--stages", "[semi]", *options, "--gpu", gpu)["stages"]["semi"]
        assert got["images_per_s"]["origin"] == origin


def test_the_working_directory_says_nothing(capsys, tmp_path, monkeypatch):
    """Not even results of the benchmark below it."""
    options = ("--stages", "[semi]", "--gpus", "2")
    here = estimate(capsys, *options)
    folder = tmp_path / "benchmarks" / "results" / "h100"
    folder.mkdir(parents=True)
    rows(folder)
    monkeypatch.chdir(tmp_path)
    assert estimate(capsys, *options) == here
    assert here["stages"]["semi"]["images_per_s"]["origin"] == "derived"


@pytest.mark.parametrize(
    ("gpu", "wanted", "precision", "peak"),
    [
        ("v100", "auto", "float16", "125 TFLOP/s"),
        ("v100", "tf32", "float32", "15.7 TFLOP/s"),
        ("a100-40", "auto", "bfloat16", "312 TFLOP/s"),
        ("a100-40", "tf32", "tf32", "156 TFLOP/s"),
        ("a100-40", "fp32", "float32", "19.5 TFLOP/s"),
    ],
)
def test_precision_follows_the_gpu(capsys, gpu, wanted, precision, peak):
    options = ("--stages", "[semi]", "--model.args", '{"depth": 1}')
    got = estimate(capsys, *options, "--gpu", gpu, "--precision", wanted)["stages"]["semi"]
    assert got["precision"] == precision and peak in got["images_per_s"]["how"]


def test_images_that_are_not_here_are_held_out_by_number(tiny):
    options = ("--data.root", "/nowhere", "--data.labels.per_class", "10", "--data.labels.validation", "0.2")
    sizes = Namespace(train_images=1000, classes=10, unlabelled_images=None)
    for further, unlabelled in (((), 920), (("--data.val", "null"), 900)):
        data, _ = open_data(tiny(*options, *further), sizes)
        found = [len(images.ids) for images in (data.labelled, data.held_out, data.unlabelled)]
        assert found == [80, 20, unlabelled]


def test_strategy_is_what_fits(capsys):
    huge = str(IMAGENET / "vit_huge_10p.yaml")
    options = ("--stages", "[semi]", "--gpus", "32")
    v100 = estimate(capsys, *options, "--gpu", "v100-16", config=huge)["stages"]["semi"]
    assert v100["strategy"] == "fsdp" and v100["fits"] and v100["memory"]["ddp"]["total"] > 16e9
    assert estimate(capsys, *options, "--gpu", "h100", config=huge)["stages"]["semi"]["strategy"] == "ddp"
    small = estimate(capsys, *options, "--gpu", "v100-16", "--distributed.strategy", "ddp", config=huge)
    assert not small["stages"]["semi"]["fits"]


def test_the_table_says_where_figures_come_from(capsys):
    options = ["--config", SMALL, "--gpu", "v100-16", "--gpus", "1", "--semi.micro_batches", "1"]
    assert cli.main(["estimate", *options, "--distributed.strategy", "ddp"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("as known of imagenet, not counted", "the vendor's", "(assumed)", "semi does not fit: set"):
        assert words in out


def test_an_upper_bound_is_called_one(capsys):
    options = ["--config", SMALL, "--gpu", "h100", "--gpus", "1", "--stages", "[semi]"]
    assert cli.main(["estimate", *options, "--semi.label_passes", "2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "semi: semi.label_passes makes some steps cheaper than the dearest, which is reckoned with" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--gpus", "3"), "finetune.micro_batches is 8, which 3 processes cannot share evenly; start 2 or 4"),
        (("--gpus", "12"), "start 8 processes (no multiple of 12 divides the batch of 512"),
        (("--gpus", "16"), "start 8 processes, or set finetune.micro_batches to 16"),
        (("--gpus", "0"), "--gpus is 0; it must be at least 1"),
        (("--gpus", "8", "--nodes", "3"), "8 GPUs cannot be spread over 3 nodes evenly"),
        (("--gpu", "gtx480"), f"--gpu gtx480 is not in the table; use {', '.join(GPUS)}"),
        (("--utilisation", "1.5"), "--utilisation is 1.5; it must lie in (0, 1]"),
        (("--images_per_s", "5"), "is the rate of one stage, and there are several"),
        (("--images_per_s", "-5", "--stages", "[semi]"), "--images_per_s is -5.0; it must be positive"),
        (("--measured", "nowhere.json"), "--measured nowhere.json cannot be read"),
        (("--measured", SMALL), "is no result of python -m benchmarks.steps"),
    ],
)
def test_wrong_input_ends_with_one_line(options, message, capsys):
    assert cli.main(["estimate", "--config", SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
