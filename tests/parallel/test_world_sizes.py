"""A run computes the same in one process and in two."""

import math

import pytest
import torch

from fastsemi.commands import train
from fastsemi.training.checkpoint import file as checkpoint_file

STAGES = ("pretrain", "finetune", "semi")
OPTIONS = (
    "--semi.keep_tokens",
    "0.5",
    "--semi.label_passes",
    "2",
    "--semi.merge_tokens",
    "2",
    "--semi.length",
    "6 steps",
    "--semi.eval_every",
    "3 steps",
)


@pytest.fixture(scope="module")
def single():
    """What one process computed, kept between tests."""
    return {}


def known(value):
    """A figure, or those of all classes with NaN for those without one."""
    return [math.nan if each is None else each for each in value] if isinstance(value, list) else value


def results(folder):
    names = {stage: folder / "checkpoints" / f"{stage}_result.pt" for stage in STAGES}
    return {stage: checkpoint_file.load(path)["model"] for stage, path in names.items()}


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_equal_one_that_accumulates(
    preset, processes, tmp_path, single, strategy, pageless, monkeypatch
):
    """All three stages: every value and weight.

    With mixing, drop path, patches left out, merged tokens, labels that serve twice and rejected samples. The
    two also compute activations again, which must change nothing, and draw the same drop path.
    """
    if "rows" not in single:
        folder, words = preset("one", *OPTIONS)
        codes, said = processes.run(1, words, tmp_path / "one.log")
        assert codes == [0], said
        single["rows"] = {stage: processes.rows(folder, stage) for stage in STAGES}
        single["scores"] = processes.rows(folder, "semi", "teacher_top1")
        single["weights"] = results(folder)
    options = ("--distributed.strategy", strategy, "--model.activation_checkpointing", "true")
    folder, words = preset(strategy, *OPTIONS, *options)
    if strategy == "ddp":
        monkeypatch.setattr(train, "_report", pageless)
    codes, said = processes.run(2, words, tmp_path / "two.log")
    assert codes == [0, 0], said
    assert "semi: step 6/6" in said[0] and not said[1]
    assert (folder / "report.html").exists() == (strategy == "ddp")

    for stage in STAGES:
        theirs = processes.rows(folder, stage)
        assert [row["step"] for row in theirs] == [row["step"] for row in single["rows"][stage]]
        for a, b in zip(single["rows"][stage], theirs, strict=True):
            for key in a.keys() - {"stage", "seconds", "images_per_s", "loader_wait"}:
                expected = pytest.approx(known(b[key]), rel=1e-5, abs=1e-5, nan_ok=True)
                assert known(a[key]) == expected, (stage, a["step"], key)
        weights = results(folder)[stage]
        assert weights.keys() == single["weights"][stage].keys()
        for name, tensor in single["weights"][stage].items():
            torch.testing.assert_close(weights[name], tensor, rtol=0, atol=1e-5, msg=f"{stage} {name}")
    assert len(single["rows"]["semi"]) == 6
    assert processes.rows(folder, "semi", "teacher_top1") == single["scores"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_batch_norm_of_two_processes_is_that_of_one(preset, processes, tmp_path, single, strategy):
    """Weights, and the running statistics of student and teacher, which evaluation goes by."""
    for world in (1, 2) if "norm" not in single else (2,):
        folder, words = preset(
            f"norm{world}",
            *("--stages", "[semi]", "--semi.length", "4 steps", "--distributed.strategy", strategy),
            *("--model.name", "resnet18", "--model.args", "{channels: [8, 8, 8, 8], stem_width: 8}"),
            *("--model.pool", "default", "--semi.drop_path", "0", "--train.select", "last"),
        )
        codes, said = processes.run(world, words, tmp_path / f"{world}.log")
        assert codes == [0] * world, said
        teacher = checkpoint_file.load(folder / "checkpoints" / "semi_result.pt")["model"]
        (student,) = processes.rows(folder, "semi", "student_top1")
        if world == 1:
            single["norm"] = teacher, student
    one, score = single["norm"]
    assert any("running_var" in name for name in one) and one["bn1.num_batches_tracked"] == 4
    for name in one:
        torch.testing.assert_close(teacher[name], one[name], rtol=1e-4, atol=1e-4, msg=name)
    assert student == score


CONTRAST = ("--semi.contrast", "1", "--semi.spread_weight", "0.5", "--semi.spread_every", "2 steps")


def test_contrast_and_spreading_of_two_processes_are_those_of_one(preset, processes, tmp_path):
    found = {}
    for world in (1, 2):
        folder, words = preset(
            f"contrast-{world}",
            *("--distributed.strategy", "ddp", "--stages", "[semi]", "--semi.length", "5 steps"),
            *CONTRAST,
        )
        codes, said = processes.run(world, words, tmp_path / f"{world}.log")
        assert codes == [0] * world, said
        found[world] = checkpoint_file.load(folder / "checkpoints" / "semi_result.pt")["model"]
    for name, tensor in found[1].items():
        torch.testing.assert_close(found[2][name], tensor, rtol=0, atol=1e-5, msg=name)


def test_contrast_of_a_sharded_network_is_refused(preset, processes, tmp_path):
    _, words = preset("sharded", "--distributed.strategy", "fsdp", "--stages", "[semi]", *CONTRAST)
    codes, said = processes.run(2, words, tmp_path / "two.log")
    assert codes == [2, 2] and "".join(said).count("set distributed.strategy to ddp") == 1, said
