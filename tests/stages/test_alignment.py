"""Distribution alignment against its equation, and in a run."""

import pytest
import torch
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run
from fastsemi.stages.alignment import Alignment

TARGET = torch.tensor([0.5, 0.3, 0.2])


def batches(count=4, rows=6):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(rows, 3, generator=generator) * 2 + torch.tensor([0.0, 1.0, 3.0]) for _ in range(count)
    ]


def test_predictions_are_weighed_by_target_over_average():
    alignment, momentum = Alignment(TARGET, 0.9), 0.9
    average, mass = torch.zeros(3), 0.0
    for logits in batches():
        p = logits.softmax(1)
        ratio = TARGET / (average / mass) if mass else torch.ones(3)
        expected = p * ratio / (p * ratio).sum(1, keepdim=True)
        torch.testing.assert_close(alignment(logits).softmax(1), expected)
        alignment.update()
        average = momentum * average + (1 - momentum) * p.mean(0)
        mass = momentum * mass + (1 - momentum)


def test_aligned_labels_are_as_frequent_as_the_target():
    alignment, logits = Alignment(TARGET, 0.5), torch.cat(batches(40))
    before = logits.softmax(1).mean(0)
    for _ in range(3):
        alignment(logits)
        alignment.update()
    after = alignment(logits).softmax(1).mean(0)
    assert (after - TARGET).abs().sum() < 0.5 * (before - TARGET).abs().sum()


def test_a_step_in_parts_is_the_same_step():
    whole, parts = Alignment(TARGET, 0.9), Alignment(TARGET, 0.9)
    for logits in batches():
        whole(logits)
        whole.update()
        for part in logits.split(2):
            parts(part)
        parts.update()
    torch.testing.assert_close(whole.average, parts.average)


def test_the_target_is_what_the_labels_show(tiny):
    for align, expected in (("uniform", [1 / 3] * 3), ("labelled", [1 / 3] * 3)):
        run = RunContext(tiny("--stages", "[semi]", "--semi.align", align))
        stage = build_stage(run, "semi")
        run.close()
        assert stage.alignment.target.tolist() == pytest.approx(expected)


def test_alignment_survives_a_resume(tiny):
    options = ("--stages", "[semi]", "--semi.align", "uniform", "--semi.temperature", "0.5")
    whole = tiny(*options, "--output", str(tiny().output / "whole"))
    Run(whole, Progress(Console(quiet=True))).train(["semi"])
    run = RunContext(whole)
    stage = build_stage(run, "semi")
    state = stage.extra_state()
    run.close()
    assert set(state["alignment"]) == {"average", "mass"}
    stage.alignment.average.fill_(0.25)
    saved = {key: value.clone() for key, value in stage.extra_state()["alignment"].items()}
    stage.alignment.average.zero_()
    stage.load_extra_state({**state, "alignment": saved})
    assert stage.alignment.average.tolist() == [0.25] * 3
