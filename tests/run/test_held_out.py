"""Labels that train nothing: which images they are, what they choose, and what a run says of it."""

import io
import json
import shlex
import shutil
from contextlib import closing
from pathlib import Path

import pytest
import torch
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.loaders.data import Data
from fastsemi.run import run as run_module
from fastsemi.run.context import RunContext
from fastsemi.run.fingerprint import fingerprint
from fastsemi.run.run import Run
from fastsemi.run.selected import all_labels_line
from fastsemi.run.summary import summary_table, verdict
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.evaluate import evaluate

HELD = ("--data.labels.validation", "0.25")  # one of four labels of each of three classes
NO_VAL = ("--data.val", "null")


def roles(config):
    data = Data(config.data, config.loader)
    names = ("all_labelled", "labelled", "held_out", "unlabelled", "pretraining", "selection", "val")
    found = {name: getattr(data, name).ids.tolist() for name in names}
    data.close()
    return found


def test_held_out_images_lose_their_label_and_stay_among_the_unlabelled(tiny):
    plain, held = roles(tiny()), roles(tiny(*HELD))
    assert held["all_labelled"] == plain["labelled"] and len(held["held_out"]) == 3
    assert sorted(held["labelled"] + held["held_out"]) == plain["labelled"]
    assert sorted(held["labelled"] + held["unlabelled"]) == list(range(120))
    assert held["selection"] == held["held_out"] and plain["selection"] == plain["val"]
    assert held["pretraining"] == plain["pretraining"] and held["val"] == plain["val"]


@pytest.mark.parametrize("further", [(), ("--data.unlabelled_includes_labelled", "true")])
def test_images_that_are_evaluated_on_are_not_even_seen_without_their_label(tiny, further):
    found = roles(tiny(*HELD, *NO_VAL, *further))
    assert found["val"] == found["selection"] == found["held_out"] and len(found["val"]) == 3
    for name in ("labelled", "unlabelled", "pretraining"):
        assert not set(found[name]) & set(found["val"])
    assert len(found["pretraining"]) == 117
    assert len(found["unlabelled"]) == (117 if further else 108)


def _trained(config, capsys=None):
    console = Console(record=True, width=200, quiet=capsys is None)
    return Run(config, Progress(console)).train(config.stages)


def test_the_network_is_chosen_on_held_out_labels_and_reported_on_the_others(tiny, capsys):
    every = ("--finetune.eval_every", "2 steps")
    config = tiny("--stages", "[finetune]", *HELD, *every, "--finetune.batch", "9")
    summary = _trained(config, capsys)
    said = capsys.readouterr().out
    assert "3 of the 12 labelled images train nothing, the network is chosen on them" in said
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    rows = {row["step"]: row for row in rows if "top1" in row}
    chosen = summary["stages"]["finetune"]["chosen"]
    assert chosen["selection_top1"] == max(row["validation"] for row in rows.values())
    assert chosen["top1"] == rows[chosen["step"]]["top1"]
    assert (summary["labelled"], summary["held_out"], summary["evaluation"]) == (9, 3, 30)
    run = RunContext(config)
    model = checkpoint_file.load(config.output / "checkpoints" / "finetune_result.pt")["model"]
    network = build(config, model)
    arguments = ({"model": network}, run.data, run.views, run.precision)
    held = evaluate(*arguments, batch=2, images=run.data.held_out)["model"]
    evaluated = evaluate(*arguments, batch=7)["model"]
    features = run.prober.features("pixels", None)
    assert (
        features.labelled.ids.tolist() == run.data.labelled.ids.tolist() and len(features.labelled.ids) == 9
    )
    run.close()
    assert (held.top1, held.images) == (pytest.approx(chosen["selection_top1"]), 3)
    assert held.loss == pytest.approx(chosen["selection_loss"], rel=1e-4)
    assert (evaluated.top1, evaluated.images) == (pytest.approx(chosen["top1"]), 30)
    table = Console(record=True, width=120)
    table.print(summary_table(summary))
    text = table.export_text()
    assert "chosen: model" in text and "on 3 labelled images that trained nothing" in text


def build(config, state):
    from fastsemi.run.new_stage import new_model

    model = new_model(config, "finetune", 3)
    model.load_state_dict(state)
    return model


def test_without_an_evaluation_set_the_run_says_so_first_and_last(tiny):
    config = tiny("--stages", "[finetune]", *HELD, *NO_VAL, "--finetune.batch", "9")
    console = Console(record=True, width=200, file=io.StringIO())
    summary = Run(config, Progress(console)).train(config.stages)
    console.print(summary_table(summary))
    lines = console.export_text().splitlines()
    assert lines[0].startswith("data: 120 training images") and lines[0].endswith("3 to evaluate on")
    assert lines[1].startswith(
        "no evaluation set (data.val is null): 3 of the 12 labelled images train nothing"
    )
    assert "which flatters it" in lines[1]
    assert any("no evaluation set: accuracies are of 3" in line for line in lines[2:])
    assert summary["evaluated_on"] == summary["selected_on"] == "held-out labelled images"
    assert summary["evaluation"] == 3


@pytest.mark.parametrize("stage", ["pretrain", "finetune"])
def test_another_choice_of_held_out_labels_is_another_run(tiny, stage):
    """Where they are evaluated on, also for pretraining, which does not see them then."""
    half = ("--data.labels.validation", "0.5")
    for further in ((), NO_VAL):
        a, b = (fingerprint(tiny(*options, *further), stage, []) for options in (HELD, half))
        assert (a == b) == (stage == "pretrain" and not further)


def _summary(**further):
    entry = {"student_top1": 60.0, "teacher_top1": 70.0, "seconds": 1.0, "images_per_s": 1.0}
    entry["chosen"] = {"network": "student", "step": 4, "top1": 80.0, "top5": 100.0, "balanced": 79.0}
    baseline = {"features": "pixels", "classifier": "SVM", "top1": 75.0, "balanced": 75.0}
    return {"baselines": [baseline], "stages": {"semi": entry}, "held_out": 3, "evaluation": 30, **further}


def test_a_network_that_others_chose_counts_and_one_that_the_same_images_chose_does_not():
    held, own = "held-out labelled images", "evaluation images"
    honest = verdict(_summary(selected_on=held, evaluated_on=own))
    assert honest.startswith("semi (chosen on held-out labels) ends 5.0 points above")
    for images in (held, own):
        assert "semi ends at 70.0 %" in verdict(_summary(selected_on=images, evaluated_on=images))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.labels.validation", "1"], "data.labels.validation is 1.0; it must lie in [0, 1)"),
        (["--data.labels.validation", ".nan"], "data.labels.validation is nan"),
        (["--data.labels.validation", "0.1"], "data.labels.validation 0.1 holds no image out"),
        (["--data.val", "null"], "set data.labels.validation, for example to 0.2, name evaluation images in"),
        (
            ["--data.val", "null"],
            "or set train.select to last, which trains on all labels and evaluates nothing",
        ),
        (["--data.val", "elsewhere"], "set data.val to val, which is there"),
    ],
)
def test_what_cannot_be_held_out_is_refused(tiny, tmp_path, capsys, options, words):
    tiny()
    assert main(["train", "--config", str(tmp_path / "tiny.yaml"), *options]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_figures_of_different_images_do_not_stand_in_one_table(tiny):
    """A stage that was evaluated on held-out labels is not followed by one on other images."""
    first = tiny("--stages", "[finetune]", *HELD, *NO_VAL, "--finetune.batch", "9")
    Run(first, Progress(Console(quiet=True))).train(first.stages)
    batches = ("--finetune.batch", "9", "--semi.batch", "8")
    other = tiny("--stages", "[finetune, semi]", *HELD, *batches)
    with pytest.raises(UserError, match="holds stage finetune with other settings"):
        Run(other, Progress(Console(quiet=True))).train(other.stages)


def test_simple_classifiers_are_judged_again_on_other_labels(tiny):
    few = tiny("--stages", "[finetune]", "--train.baseline", "auto", "--data.labels.per_class", "1")
    few.output.mkdir()
    run = Run(few, Progress(Console(quiet=True)))
    run._judge_baselines(few.stages)
    before = json.loads((few.output / "summary.json").read_text())
    run._judge_baselines(few.stages)
    assert json.loads((few.output / "summary.json").read_text()) == before
    run.context.close()
    more = tiny("--stages", "[finetune]", "--train.baseline", "auto", "--data.labels.per_class", "30")
    run = Run(more, Progress(Console(quiet=True)))
    run._judge_baselines(more.stages)
    run.context.close()
    after = json.loads((few.output / "summary.json").read_text())
    assert after["baselines_of"] != before["baselines_of"]
    assert max(row["top1"] for row in after["baselines"]) > max(row["top1"] for row in before["baselines"])


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tiny, tmp_path):
    path = tmp_path / "weights.pt"
    torch.save({"layer.weight": torch.zeros(3)}, path)
    config = tiny("--stages", "[finetune]", "--model.weights", str(path), "--train.baseline", "auto")
    with pytest.raises(UserError, match=r"weights\.pt"):
        Run(config, Progress(Console(quiet=True))).train(config.stages)
    assert not (config.output / "config.yaml").exists() and not (config.output / "summary.json").exists()


def test_a_difference_is_told_in_images_too():
    held, own = "held-out labelled images", "evaluation images"
    assert verdict(_summary(selected_on=held, evaluated_on=own)).endswith(", 2 of 30 images")
    below = verdict(_summary(selected_on=None, evaluated_on=own))
    assert "75.0 % on the same labels, 2 of 30 images; " in below
    flattered = verdict(_summary(selected_on=own, evaluated_on=own))
    assert flattered.endswith("model/ holds the network that was chosen, 80.0 %, chosen on the same images")


ALL = (*NO_VAL, "--train.select", "last")


def _weights(config):
    return checkpoint_file.load(config.output / "checkpoints" / "semi_result.pt")["model"]


def test_all_labels_train_where_nothing_is_evaluated_and_nothing_else_changes(tiny, tmp_path):
    """The same weights as of a run that is evaluated: an evaluation draws and changes nothing."""
    stages = ("--stages", "[finetune, semi]")
    every = tiny(*stages, *ALL, "--train.baseline", "auto", "--train.calibrate", "true")
    console = Console(record=True, width=200, file=io.StringIO())
    summary = Run(every, Progress(console)).train(every.stages)
    said = console.export_text()
    assert "12 labelled, 108 unlabelled, none to evaluate on" in said and "no image to evaluate" not in said
    assert "nothing is evaluated (data.val is null, data.labels.validation 0): all labels train" in said
    assert "top1" not in said and "confidences" not in said
    assert (summary["labelled"], summary["held_out"], summary["evaluation"]) == (12, 0, 0)
    assert summary["evaluated_on"] == "nothing" and "baselines" not in summary
    assert not any(key.endswith("top1") for entry in summary["stages"].values() for key in entry)
    table = Console(record=True, width=120, file=io.StringIO())
    table.print(summary_table(summary))
    text = table.export_text()
    assert text.count("not evaluated") == 2 and "all labels have trained, nothing was evaluated" in text
    assert verdict(summary) is None
    judged = tiny(*stages, "--train.select", "last", "--output", str(tmp_path / "judged"))
    Run(judged, Progress(Console(quiet=True))).train(judged.stages)
    mine, theirs = _weights(every), _weights(judged)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_what_a_run_of_all_labels_is_good_for(tiny, tmp_path, capsys):
    config = tiny("--stages", "[finetune]", *ALL)
    preset = ["--config", str(tmp_path / "tiny.yaml"), "--stages", "[finetune]", *ALL]
    assert main(["train", *preset]) == 0
    found = capsys.readouterr()
    assert "not evaluated" in found.out and "all labels have trained" in found.out
    page = (config.output / "report.html").read_text()
    assert "nothing was evaluated" in page and "not evaluated" in page and ">nothing<" not in page
    run = ["--output", str(config.output)]
    assert main(["report", *run]) == 0
    assert main(["predict", str(config.data.root / "val"), *run, "--to", str(tmp_path / "said.csv")]) == 0
    assert len((tmp_path / "said.csv").read_text().splitlines()) == 31
    capsys.readouterr()
    for command, words in (
        (["evaluate", *run], "has no images to evaluate on; name a folder of others below data.root"),
        (["evaluate", *run, *HELD], "held other labels out, or none; name a folder of others"),
        (["probe", *preset], "there are no images to judge classifiers on"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert words in error and error.splitlines()[-1].startswith("fastsemi: error:")
    assert main(["evaluate", *run, "--data.val", "val"]) == 0
    assert "30 evaluation images" in capsys.readouterr().out


def test_a_run_with_held_out_labels_says_how_to_train_on_all(tiny, tmp_path, capsys):
    held = ["--data.labels.validation", "0.25", "--finetune.batch", "9", "--stages", "[finetune]"]
    config = tiny()
    start = ["train", "--config", str(tmp_path / "tiny.yaml"), *held]
    for further, words in (
        ([*NO_VAL, "--output", str(tmp_path / "a run")], "evaluates nothing"),
        (["--output", str(tmp_path / "other")], "is judged on the evaluation images"),
    ):
        assert main([*start, *further]) == 0
        told = next(x for x in capsys.readouterr().out.splitlines() if "labels trained nothing" in x)
        assert f"3 labels trained nothing; this trains on all 12 and {words}: fastsemi train" in told
        command = shlex.split(told.split(": ", 1)[1])
        assert main(command[1:]) == 0
        summary = json.loads((Path(command[command.index("--output") + 1]) / "summary.json").read_text())
        assert (summary["labelled"], summary["held_out"]) == (12, 0)
        assert "labels trained nothing" not in capsys.readouterr().out
    assert main(["train", "--config", str(tmp_path / "tiny.yaml"), "--stages", "[finetune]"]) == 0
    assert "labels trained nothing" not in capsys.readouterr().out and config.output.exists()


def test_what_a_checkpoint_was_evaluated_with_is_no_result_of_a_run_that_evaluates_nothing(tiny):
    """The stage goes on without its evaluation images, and with `train.allow_changed`."""
    options = ("--stages", "[finetune]", "--train.select", "last", "--finetune.checkpoint_every", "4 steps")
    first = Run(tiny(*options), Progress(Console(quiet=True)))

    def stop(step):
        if step == 6:
            raise KeyboardInterrupt

    trainer_of = run_module.build_trainer
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):

        def build_trainer(*args, **further):
            trainer = trainer_of(*args, **further)
            trainer.before_step = stop
            return trainer

        patched.setattr(run_module, "build_trainer", build_trainer)
        first.train(first.config.stages)
    config = tiny(*options, *NO_VAL, "--train.allow_changed", "true")
    entry = Run(config, Progress(Console(quiet=True))).train(config.stages)["stages"]["finetune"]
    assert entry["steps"] == 8 and not any(key.endswith("top1") for key in entry)


def test_a_stage_that_the_configuration_does_not_name_needs_something_to_choose_on(tiny, tmp_path, capsys):
    tiny()
    run = ["--config", str(tmp_path / "tiny.yaml"), "--stages", "[pretrain]", *NO_VAL]
    assert main(["pretrain", *run]) == 0
    capsys.readouterr()
    assert main(["finetune", *run]) == 2
    assert "no image is left to choose the best network by" in capsys.readouterr().err


def test_pretraining_wants_no_labels_where_nothing_is_evaluated(tiny, tmp_path, shapes):
    shutil.copytree(shapes / "train" / "bar", tmp_path / "flat" / "train" / "a")
    options = ("--stages", "[pretrain]", *NO_VAL, "--data.root", str(tmp_path / "flat"))
    config = tiny(*options)
    Run(config, Progress(Console(quiet=True))).train(config.stages)
    with closing(Data(config.data, config.loader)) as data:
        assert len(data.pretraining.ids) == 40


def test_the_command_for_all_labels_leaves_what_is_of_the_run_alone(tiny, tmp_path, monkeypatch):
    summary = {"stages": {"finetune": {}}, "labelled": 9, "held_out": 3, "unlabelled": 111}
    stages = ("--stages", "[finetune]", *HELD)
    plain = all_labels_line(tiny(*stages), summary)
    assert plain.endswith("--data.labels.validation 0 --train.select last")
    kept = tiny(*stages, "--plan.record", str(tmp_path / "plan.bin"), "--train.mirror", "s3://bucket/run")
    assert all_labels_line(kept, summary).endswith("--plan.record null --train.mirror null")
    assert all_labels_line(tiny(*stages), {**summary, "unlabelled": 3}) is None  # it would have none
    assert all_labels_line(tiny(*stages), {**summary, "stages": {}}) is None
    assert all_labels_line(tiny("--stages", "[finetune]"), {**summary, "held_out": 0}) is None
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert f"--output {tmp_path / 'here_all'} " in all_labels_line(tiny(*stages, "--output", "."), summary)
