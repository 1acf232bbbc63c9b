"""A recorded plan: a run on it ends with the same weights, and what does not fit is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.loaders.plan.arrays import to_arrays
from fastsemi.run.build import build_stage
from fastsemi.run.checks import check_stage
from fastsemi.run.context import RunContext
from fastsemi.run.plan_file import record_plan
from fastsemi.run.run import Run
from fastsemi.stages.pretrain import Pretrain

STAGES = ("--stages", "[pretrain, finetune, semi]")


def _train(config):
    Run(config, Progress(Console(quiet=True))).train(config.stages)
    results = config.output / "checkpoints"
    return {p.name: torch.load(p, weights_only=True)["model"] for p in results.glob("*_result.pt")}


@pytest.fixture
def plan(tiny, tmp_path):
    """What the semi stage draws."""
    path = tmp_path / "semi.safetensors"
    run = RunContext(tiny("--stages", "[semi]", "--plan.record", str(path)))
    try:
        record_plan(run.config, "semi", build_stage(run, "semi"), run.device)
    finally:
        run.close()
    return path


def _refused(config, says, stage="semi"):
    run = RunContext(config)
    try:
        with pytest.raises(UserError, match=says):
            check_stage(run, stage)
    finally:
        run.close()


def test_a_run_on_a_recorded_plan_ends_with_the_same_weights(tiny, tmp_path, shapes):
    plan = tmp_path / "plan.safetensors"
    first = tiny(*STAGES, "--plan.record", str(plan), "--pretrain.micro_batches", "2")
    recorded = _train(first)
    arrays = load_file(plan)
    assert {key.rsplit(".", 1)[0] for key in arrays if key.endswith("ids")} == {
        "pretrain.pretrain", "finetune.labelled", "semi.unlabelled", "semi.labelled",
    }  # fmt: skip
    assert arrays["pretrain.pretrain.hide"].shape == (8, 2, 12, 16)
    assert arrays["semi.unlabelled.views.1.randaugment.op"].shape == (8, 1, 30, 2)
    with safe_open(plan, "np") as file:
        metadata = file.metadata()
    names = json.loads(metadata["finetune.labelled"])
    assert metadata["seed"] == "0" and all((shapes / "train" / name).is_file() for name in names.values())
    shutil.rmtree(first.output)
    again = tiny(*STAGES, "--plan.replay", str(plan), "--pretrain.micro_batches", "2")
    assert _same(recorded, _train(again))
    shutil.rmtree(first.output)
    arrays["pretrain.pretrain.hide"] = arrays["pretrain.pretrain.hide"][..., ::-1].copy()
    save_file(arrays, plan, metadata)  # other masks
    only = ("--stages", "[pretrain]", "--pretrain.micro_batches", "2", "--output", str(tmp_path / "other"))
    name = "pretrain_result.pt"
    assert not _same({name: recorded[name]}, _train(tiny("--plan.replay", str(plan), *only)))


def test_replayed_plans_are_the_recorded_ones(tiny, plan):
    ours, theirs = (
        RunContext(tiny("--stages", "[semi]", *more)) for more in ([], ["--plan.replay", str(plan)])
    )
    try:
        stages = [build_stage(run, "semi") for run in (ours, theirs)]
    finally:
        ours.close()
        theirs.close()
    for role in ("unlabelled", "labelled"):
        for step in range(8):
            drawn, read = (to_arrays(stage.roles[role].stream.plan(step, 0)) for stage in stages)
            assert drawn.keys() == read.keys()
            for key, array in drawn.items():
                assert array.dtype == read[key].dtype, key
                np.testing.assert_array_equal(array, read[key], err_msg=key)


def _same(a, b):
    return all(torch.equal(tensor, b[name][key]) for name in a for key, tensor in a[name].items())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--semi.length", "9 steps"], "holds 8 steps of semi.unlabelled, and the stage has 9"),
        (["--semi.micro_batches", "2"], "of \\[1, 30\\] a step, and the settings need \\[2, 15\\]"),
        (["--seed", "1"], "recorded with seed 0, and it is 1 now"),
        (["--data.image_size", "32"], r"recorded with data\.image_size 16"),
        (["--semi.strong.erase", "0"], "erase.box, which the settings of the stage do not know"),
        (["--semi.weak.erase", "0.5"], "lacks semi.unlabelled.views.0.erase"),
    ],
)
def test_plans_of_other_settings_are_refused(tiny, plan, options, says):
    _refused(tiny("--stages", "[semi]", "--plan.replay", str(plan), *options), says)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("ids", 1000, "images that are not there"),
        ("labels", 7, "classes that are not there"),
        ("mix.partner", 0, "no permutation"),
        ("mix.lam", None, "as float64; write it as float32"),
        ("views.0.window", 17, "reaches out of its images"),
        ("views.1.erase.box", 12, "reaches out of its views"),
        ("views.1.erase.box", 2**63 - 1, "reaches out of its views"),
        ("mix.lam", 7, "mix.lam has numbers outside of 0 to 1"),
        ("mix.lam", np.nan, "mix.lam is not finite"),
        ("mix.centre", 1, "mix.centre has numbers outside of 0 to 1"),
        ("views.1.randaugment.op", 99, "operations that there are not"),
        ("views.0.color.order", 1, "color.order is no permutation"),
    ],
)
def test_draws_that_no_batch_has_are_refused(tiny, plan, tmp_path, key, value, says):
    arrays = load_file(plan)
    if value is None:
        arrays[f"semi.unlabelled.{key}"] = arrays[f"semi.unlabelled.{key}"].astype(np.float64)
    else:
        arrays[f"semi.unlabelled.{key}"][3] = value
    save_file(arrays, tmp_path / "wrong.safetensors")
    config = tiny("--stages", "[semi]", "--plan.replay", str(tmp_path / "wrong.safetensors"))
    _refused(config, says)


def test_arrays_of_other_shapes_are_refused(tiny, plan, tmp_path):
    recorded, wrong = load_file(plan), tmp_path / "wrong.safetensors"
    config = tiny("--stages", "[semi]", "--plan.replay", str(wrong))
    for name, array, says in (
        ("mix.lam", recorded["semi.unlabelled.mix.lam"][:4], "mix.lam of 4 steps and .*ids of 8"),
        ("ids", np.array(3), r"ids of \[\] a step"),
        ("hide", np.zeros((8, 1, 30, 16), np.float32), "hide, which the settings of the stage do not know"),
    ):
        save_file({**recorded, f"semi.unlabelled.{name}": array}, wrong)
        _refused(config, says)
    run = RunContext(tiny())
    first = Pretrain.build_roles(run.config.pretrain, run.data, 0)["pretrain"].stream.plan(0, 0)
    run.close()
    masks = {f"pretrain.pretrain.{k}": np.stack([a[None]] * 8) for k, a in to_arrays(first).items()}
    for hide, says in (
        (np.zeros((8, 1, 24, 16), np.float64), "hide as float64; write it as float32"),
        (np.zeros((8, 1, 23, 16), np.float32), r"hide of \[1, 23, 16\] a step, .* need \[1, 24, 16\]"),
        (np.zeros((8, 1, 24), np.float32), r"hide of \[1, 24\] a step"),
    ):
        save_file({**masks, "pretrain.pretrain.hide": hide}, wrong)
        _refused(tiny("--stages", "[pretrain]", "--plan.replay", str(wrong)), says, "pretrain")


@pytest.mark.parametrize("text", ["x", "[1]", '{"a": "b"}', '{"-1": "b"}', '{"1000": "b"}'])
def test_names_that_are_none_are_refused(tiny, plan, tmp_path, text):
    wrong = tmp_path / "wrong.safetensors"
    save_file(load_file(plan), wrong, {"semi.unlabelled": text})
    says = r"image (-1|1000) of .* and none here" if "1" in text and "{" in text else "no JSON object"
    _refused(tiny("--stages", "[semi]", "--plan.replay", str(wrong)), says)


def test_files_that_are_none_and_other_images_are_refused(tiny, plan, tmp_path):
    wrong = tmp_path / "wrong.safetensors"
    for says in ("does not exist", "is no .safetensors file", "holds no draws", "image 0 of"):
        if says == "is no .safetensors file":
            wrong.write_text("x")
        if says == "holds no draws":
            save_file({"x": np.zeros(1)}, wrong)
        if says == "image 0 of":
            names = {role: '{"0": "somebody/else.png"}' for role in ("semi.unlabelled", "semi.labelled")}
            save_file(load_file(plan), wrong, names)
        config = tiny("--stages", "[semi]", "--plan.replay", str(wrong))
        _refused(config, says)
    with pytest.raises(UserError, match="both set"):
        tiny("--plan.replay", "a", "--plan.record", "b")
    with pytest.raises(UserError, match=r"plan\.steps"):
        tiny("--plan.steps", "0")
    with pytest.raises(UserError, match=r"compile\.enabled"):
        tiny("--plan.record", "a", "--compile.enabled", "true")
    same = ("--stages", "[semi]", "--plan.record")
    _refused(tiny(*same, str(plan), "--seed", "1"), "was written with seed 0, and it is 1 now")
    run = RunContext(tiny(*same, str(plan), "--semi.strong.erase", "0"))
    with pytest.raises(UserError, match="holds other draws of semi"):
        record_plan(run.config, "semi", build_stage(run, "semi"), run.device)
    run.close()
