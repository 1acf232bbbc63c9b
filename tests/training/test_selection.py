"""The best network that was evaluated is what a stage leaves."""

import json

import pytest
import torch
from rich.console import Console
from torch import nn

from fastsemi.common.progress import Progress
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.evaluate import Accuracy
from fastsemi.training.selection import Selection


def network(value):
    layer = nn.Linear(1, 1)
    nn.init.constant_(layer.weight, value)
    return layer


def scores(loss=1.0, **top1):
    return {name: Accuracy(value, 100.0, value, loss, 10) for name, value in top1.items()}


def test_the_best_is_kept_and_ties_go_to_the_earlier_one_and_to_the_result(tmp_path):
    selection = Selection(tmp_path, "semi")
    student, teacher = network(1.0), network(2.0)
    models = {"student": student, "teacher": teacher}
    selection.offer(10, scores(student=50.0, teacher=50.0), models, teacher)
    assert (selection.choice.network, selection.choice.step) == ("teacher", 10)
    nn.init.constant_(teacher.weight, 3.0)
    selection.offer(20, scores(student=49.0, teacher=50.0), models, teacher)
    assert selection.choice.step == 10 and selection.tensors()["weight"].item() == 2.0
    selection.offer(30, scores(student=60.0, teacher=50.0), models, teacher)
    assert (selection.choice.network, selection.tensors()["weight"].item()) == ("student", 1.0)


def test_a_choice_that_an_older_version_noted_is_taken_back(tmp_path):
    selection = Selection(tmp_path, "semi")
    selection.restore({"network": "teacher", "step": 5, "top1": 40.0})
    models = {"teacher": network(2.0)}
    selection.offer(10, scores(teacher=39.0), models, models["teacher"])
    assert selection.choice.step == 5 and selection.choice.balanced is None
    selection.offer(20, scores(teacher=40.0), models, models["teacher"])  # a loss, where none was known
    assert selection.choice.step == 20


def test_of_networks_with_as_many_hits_the_one_of_lower_loss_is_kept(tmp_path):
    selection, model = Selection(tmp_path, "semi"), network(1.0)
    for step, loss in ((1, float("nan")), (2, 0.9), (3, 0.4), (4, 0.4), (5, 0.5)):
        selection.offer(step, scores(loss, model=50.0), {"model": model}, model)
    assert (selection.choice.step, selection.choice.selection_loss) == (3, 0.4)


def test_other_images_may_choose_than_those_that_are_reported(tmp_path):
    selection, model = Selection(tmp_path, "semi"), network(1.0)
    for step, evaluated, deciding in ((1, 90.0, 50.0), (2, 70.0, 60.0), (3, 95.0, 55.0)):
        figures = (scores(model=evaluated), {"model": model}, model, scores(model=deciding))
        selection.offer(step, *figures)
    choice = selection.choice
    assert (choice.step, choice.top1, choice.selection_top1) == (2, 70.0, 60.0)


@pytest.mark.parametrize(("last", "step"), [(100.0, 20), (90.0, 10)])
def test_of_networks_with_as_many_hits_the_one_at_the_end_is_left(last, step, tmp_path):
    selection, teacher = Selection(tmp_path, "semi"), network(2.0)
    models = {"student": network(1.0), "teacher": teacher}

    def offer(step, top1, loss, **further):
        found = {"student": (50.0, 1.0), "teacher": (top1, loss)}
        figures = {name: Accuracy(a, 100.0, a, b, 10) for name, (a, b) in found.items()}
        selection.offer(step, figures, models, teacher, **further)

    offer(10, 100.0, 0.1)
    nn.init.constant_(teacher.weight, 3.0)
    offer(20, last, 0.5)
    assert selection.choice.step == 10  # before the end the loss counts
    offer(20, last, 0.5, final=True)
    assert (selection.choice.step, selection.choice.network) == (step, "teacher")
    assert (selection.choice.selection_top1, selection.tensors()["weight"].item()) == (
        (100.0, 3.0) if step == 20 else (100.0, 2.0)
    )


def test_a_network_without_a_finite_loss_wins_no_tie_at_the_end(tmp_path):
    selection, model = Selection(tmp_path, "semi"), network(1.0)
    selection.offer(1, scores(0.5, model=50.0), {"model": model}, model)
    selection.offer(2, scores(float("nan"), model=50.0), {"model": model}, model, final=True)
    assert selection.choice.step == 1


def test_a_student_that_is_better_than_its_teacher_at_the_end_is_left(tmp_path):
    selection = Selection(tmp_path, "semi")
    models = {"student": network(1.0), "teacher": network(2.0)}
    for student, name in ((52.0, "teacher"), (53.0, "student")):
        found = (("student", student, 0.1), ("teacher", 52.0, 1.0))
        figures = {key: Accuracy(top1, 100.0, top1, loss, 100) for key, top1, loss in found}
        selection.offer(10, figures, models, models["teacher"], final=True)
        assert selection.choice.network == name


def test_files_stay_as_long_as_a_checkpoint_speaks_of_them(tmp_path):
    selection, model = Selection(tmp_path, "semi"), network(1.0)
    for step in (10, 20, 30):
        selection.offer(step, scores(model=float(step)), {"model": model}, model)
        state = selection.state()  # as a checkpoint is written
    assert [path.name for path in sorted(tmp_path.iterdir())] == [
        "semi_best-000000020.pt",  # of the checkpoint before, until the new one is whole
        "semi_best-000000030.pt",
    ]
    other = Selection(tmp_path, "semi")
    other.restore(state)
    assert other.choice == selection.choice and other.tensors()["weight"].item() == 1.0


@pytest.mark.parametrize("select", ["best", "last"])
def test_a_run_leaves_the_network_that_was_chosen(tiny, select):
    config = tiny("--stages", "[finetune]", "--train.select", select, "--finetune.eval_every", "1 steps")
    summary = Run(config, Progress(Console(quiet=True))).train(config.stages)
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    top1 = {row["step"]: row["top1"] for row in rows if "top1" in row}
    left = checkpoint_file.load(config.output / "checkpoints" / "finetune_result.pt")["model"]
    if select == "last":
        assert "chosen" not in summary["stages"]["finetune"]
        return
    chosen = summary["stages"]["finetune"]["chosen"]
    assert chosen["top1"] == chosen["selection_top1"] == top1[chosen["step"]]
    end = max(top1)
    assert chosen["top1"] == max(top1.values())
    assert (chosen["step"] == end) == (top1[end] == chosen["top1"])
    best = checkpoint_file.load(next((config.output / "checkpoints").glob(f"*best-{chosen['step']:09d}.pt")))
    assert all(torch.equal(left[name], tensor) for name, tensor in best["model"].items())
