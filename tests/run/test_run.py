"""Whole runs on real image files: outputs, determinism, resuming, skipping."""

import csv
import io
import json
import os
import signal
import time

import numpy as np
import pytest
import timm
import torch
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder
from fastsemi.run.lock import locked
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_info, read_tensors, shapes
from fastsemi.training.trainer import Interrupted


class _Quiet(Progress):
    """Shows nothing; on request sends the process a signal at a step, as a user or a scheduler would."""

    def __init__(self, stage=None, step=None):
        from rich.console import Console

        super().__init__(Console(quiet=True))
        self._signal_at = (stage, step)

    def update(self, step, row):
        if (self._stage, step) == self._signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


def _run(config, progress=None):
    run = Run(config, progress or _Quiet())
    return run.train(config.stages)


def _weights(config, stage="semi"):
    return checkpoint_file.load(config.output / "checkpoints" / f"{stage}_result.pt")["model"]


def _stored(config, stage):
    """The tensors of the latest checkpoint, by name; none without one."""
    folder = Checkpoints(config.output / "checkpoints", stage).latest()
    tensors = {name: torch.empty(shape) for name, shape in shapes(folder).items()} if folder else {}
    if folder:
        read_tensors(folder, tensors)
    return tensors


def _assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_leaves_everything_behind(tiny, capsys, tmp_path, shapes):
    config = tiny()
    summary = _run(config)
    folder = config.output
    assert json.loads((folder / "summary.json").read_text()) == summary
    assert set(summary["stages"]) == {"pretrain", "finetune", "semi"}
    assert {"top1", "top5", "images_per_s", "seconds"} <= set(summary["stages"]["finetune"])
    assert {"student_top1", "student_top5", "teacher_top1", "teacher_top5"} <= set(summary["stages"]["semi"])
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["stage"] == "semi" and "loss" in row]
    assert steps == [2, 4, 6, 8]
    last = [row for row in rows if row["stage"] == "semi" and "loss" in row][-1]
    assert {"acceptance", "pseudo_label_accuracy", "pseudo_label_recall", "loader_wait", "lr"} <= set(last)
    assert any((folder / "tensorboard").iterdir())

    model = timm.create_model(f"local-dir:{folder / 'model'}", pretrained=True).eval()
    stage = build_stage(RunContext(config), "semi", fresh=True)
    stage.model.load_state_dict(_weights(config))
    images = torch.randn(5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(model(images), stage.model.eval()(images), rtol=0, atol=0)
    assert model.pretrained_cfg["label_names"] == ["bar", "cross", "dot"]

    output = ["--output", str(folder)]
    assert main(["evaluate", *output]) == 0
    assert f"top-1 {summary['stages']['semi']['teacher_top1']:.2f} %" in capsys.readouterr().out
    table = tmp_path / "out.csv"
    assert main(["predict", str(shapes / "val"), "--csv", str(table), *output]) == 0
    rows = list(csv.DictReader(table.open()))
    assert len(rows) == 30 and {row["class"] for row in rows} <= {"bar", "cross", "dot"}
    assert all(1 / 3 <= float(row["confidence"]) <= 1 for row in rows)
    right = np.mean([row["class"] == row["path"].split("/")[-2] for row in rows])
    assert 100 * right == pytest.approx(summary["stages"]["semi"]["teacher_top1"])
    beton = str(tmp_path / "val.beton")
    assert main(["data", "beton", beton, "--images", str(shapes / "val"), "--mode", "raw"]) == 0
    assert main(["predict", beton, "--csv", str(table), *output]) == 0
    packed = list(csv.DictReader(table.open()))
    assert [row["class"] for row in packed] == [row["class"] for row in rows]
    assert packed[0]["path"] == f"{beton}/bar/000.png"
    picture = tmp_path / "views.png"
    assert main(["views", "--png", str(picture), "--count", "3", *output]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_same_command_gives_the_same_bits_with_any_number_of_loader_threads(tiny, tmp_path):
    one = tiny("--output", str(tmp_path / "one"))
    _run(one)
    for options in (["--loader.threads", "2"], ["--loader.threads", "5", "--loader.prefetch", "1"]):
        other = tiny("--output", str(tmp_path / "-".join(options).replace("--", "")), *options)
        _run(other)
        _assert_equal(_weights(one), _weights(other))
    reference = tiny("--output", str(tmp_path / "other"), "--seed", "1")
    _run(reference)
    assert not torch.equal(_weights(one)["head.weight"], _weights(reference)["head.weight"])


@pytest.mark.parametrize(
    ("stage", "step", "options"),
    [
        ("finetune", 2, ()),
        ("semi", 4, ()),
        (
            "semi",
            4,
            ("--semi.contrast", "1", "--semi.spread_weight", "0.5", "--semi.spread_every", "3 steps"),
        ),
    ],
    ids=["finetune", "semi", "spreading"],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tiny, tmp_path, stage, step, options):
    whole = tiny("--output", str(tmp_path / "whole"), *options)
    _run(whole)
    cut = tiny("--output", str(tmp_path / "cut"), *options)
    with pytest.raises(Interrupted, match=f"step {step} of 8 of {stage}"):
        _run(cut, _Quiet(stage, step))
    _run(cut)
    _assert_equal(_weights(whole), _weights(cut))
    rows = [json.loads(line) for line in (cut.output / "metrics.jsonl").read_text().splitlines()]
    steps = [row["step"] for row in rows if row["stage"] == stage and "loss" in row]
    assert steps == [2, 4, 6, 8], "no step is logged twice"


@pytest.fixture
def one_thread():
    """A forked process does not have the threads of its parent's pool, and must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_kill_between_checkpoints_loses_only_the_steps_since_the_last(tiny, tmp_path, one_thread):
    """SIGKILL leaves a whole checkpoint and log rows beyond it."""
    whole = tiny("--output", str(tmp_path / "whole"))
    _run(whole)
    config = tiny("--output", str(tmp_path / "cut"))
    pid = os.fork()
    if pid == 0:
        try:
            _run(config, _Killed("finetune", 8))
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    # That of step 6 was begun, in the background; that of step 3 was whole before.
    assert read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"] in (3, 6)
    _run(config)
    _assert_equal(_weights(whole), _weights(config))


class _Killed(_Quiet):
    def update(self, step, row):
        if (self._stage, step) == self._signal_at:
            os.kill(os.getpid(), signal.SIGKILL)


def test_finished_stages_are_skipped_and_other_settings_refused(tiny, tmp_path):
    config = tiny("--stages", "[finetune, semi]")
    first = _run(config)
    files = {path: path.stat().st_mtime_ns for path in (config.output / "checkpoints").iterdir()}
    assert _run(tiny("--stages", "[finetune, semi]", "--loader.threads", "1")) == first
    assert files == {path: path.stat().st_mtime_ns for path in (config.output / "checkpoints").iterdir()}
    with pytest.raises(UserError, match=r"semi\.threshold: 0\.3, now 0\.4.*--output"):
        _run(tiny("--stages", "[finetune, semi]", "--semi.threshold", "0.4"))
    with pytest.raises(UserError, match=r"data\.labels\.seed"):
        _run(tiny("--stages", "[finetune, semi]", "--data.labels.seed", "4"))
    said = Console(file=io.StringIO(), width=200)
    changed = tiny("--stages", "[finetune, semi]", "--semi.threshold", "0.4", "--train.allow_changed", "true")
    assert Run(changed, Progress(said)).train(changed.stages) == first
    assert "semi goes on with other settings than it was begun with: semi.threshold: 0.3, now 0.4" in (
        said.file.getvalue()
    )


def test_a_refused_command_leaves_the_run_as_it_is(tiny):
    config = tiny("--stages", "[finetune]")
    _run(config)
    before = (config.output / "config.yaml").read_text()
    with pytest.raises(UserError, match="other settings"):
        _run(tiny("--stages", "[finetune]", "--finetune.base_lr", "0.5"))
    assert (config.output / "config.yaml").read_text() == before


def test_pretraining_needs_no_labels_and_survives_a_change_of_labels(tiny):
    none = ["--data.labels.per_class", "null"]
    summary = _run(tiny("--stages", "[pretrain]", *none))
    assert summary["stages"]["pretrain"]["steps"] == 8
    assert _run(tiny("--stages", "[pretrain]", "--data.labels.per_class", "3")) == summary


def test_a_stage_without_its_predecessor_says_what_to_run(tiny):
    with pytest.raises(UserError, match="semi starts from finetune, which has not finished"):
        Run(tiny(), _Quiet()).train(["semi"])


def test_two_processes_do_not_share_a_run_directory(tiny):
    config = tiny("--stages", "[finetune]")
    with locked(RunFolder(config.output)), pytest.raises(UserError, match="another process trains in"):
        _run(config)


@pytest.mark.parametrize("mixing", ["none", "pseudo", "pseudo_plus", "prob"])
def test_every_mixing_trains_and_fixmatch_is_momentum_zero(tiny, mixing):
    config = tiny(
        "--stages", "[semi]", "--semi.mixing", mixing, "--semi.momentum", "0", "--semi.length", "4 steps"
    )
    _run(config)
    stored = _stored(config, "semi")
    model = {name: tensor for name, tensor in stored.items() if name.startswith("model.")}
    _assert_equal(model, {name: stored[name.replace("model.", "extra.teacher.", 1)] for name in model})


def test_micro_batches_train_too(tiny):
    config = tiny(
        "--semi.micro_batches", "3", "--finetune.micro_batches", "2", "--stages", "[finetune, semi]"
    )
    summary = _run(config)
    assert summary["stages"]["semi"]["steps"] == 8


def test_unlabelled_images_may_come_from_a_folder_without_classes(tiny, tmp_path, photo):
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    for i in range(40):
        photo(20 + i, 30, i).save(folder / f"{i}.jpg")
    config = tiny("--stages", "[finetune, semi]", "--data.unlabeled", str(folder))
    _run(config)
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    semi = [row for row in rows if row["stage"] == "semi" and "loss" in row]
    assert all(row["pseudo_label_accuracy"] is None for row in semi), "unknown, not zero"


def test_broken_images_are_skipped_counted_and_reported(tiny, tmp_path, shapes):
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    victims = [root / "train" / "bar" / "003.png", root / "train" / "dot" / "005.png"]
    options = ["--stages", "[pretrain]", "--data.root", str(root), "--pretrain.length", "5 epochs"]
    for victim in victims:
        victim.write_bytes(victim.read_bytes()[:60])
    with pytest.raises(UserError, match=r"00[35]\.png.*data\.max_bad"):
        _run(tiny(*options))
    summary = _run(tiny(*options, "--data.max_bad", "2"))
    assert summary["skipped_images"] == [str(path) for path in victims]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--finetune.batch", "13"], "labelled batch of 13"),
        (["--semi.unlabelled_ratio", "30"], "unlabelled batch of 180"),
        (["--semi.warmup", "8 steps"], r"semi\.warmup is 8 steps; it must be shorter"),
        (["--data.val", "nowhere"], "nowhere"),
    ],
)
def test_what_is_wrong_with_a_later_stage_is_found_before_the_first(tiny, options, message):
    config = tiny(*options)
    with pytest.raises(UserError, match=message):
        _run(config)
    assert not (config.output / "checkpoints").exists()


def test_a_signal_after_a_stages_last_evaluation_stops_before_the_next(tiny):
    class AtTheEnd(_Quiet):
        def update(self, step, row):
            pass

        def scores(self, step, scores):
            super().update(step, scores)

    config = tiny("--stages", "[finetune, semi]")
    with pytest.raises(Interrupted, match="before semi"):
        _run(config, AtTheEnd("finetune", 8))
    assert set(_run(config)["stages"]) == {"finetune", "semi"}


def test_a_lost_model_folder_is_written_again(tiny):
    import shutil

    config = tiny("--stages", "[finetune]")
    _run(config)
    before = (config.output / "model" / "model.safetensors").read_bytes()
    shutil.rmtree(config.output / "model")
    _run(config)
    assert (config.output / "model" / "model.safetensors").read_bytes() == before


def test_new_images_in_the_folder_are_noticed(tiny, tmp_path, shapes):
    import shutil

    root = tmp_path / "grows"
    shutil.copytree(shapes, root)
    options = ["--stages", "[finetune]", "--data.root", str(root)]
    _run(tiny(*options))
    shutil.copy(root / "train" / "bar" / "000.png", root / "train" / "bar" / "zzz.png")
    with pytest.raises(UserError, match="images: "):
        _run(tiny(*options))


def test_a_torn_line_of_metrics_does_not_stop_a_resumed_run(tiny):
    config = tiny("--stages", "[finetune]")
    with pytest.raises(Interrupted):
        _run(config, _Quiet("finetune", 4))
    with (config.output / "metrics.jsonl").open("a") as file:
        file.write('null\n{"stage": "fine')
    _run(config)
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]


def test_evaluation_survives_a_batch_of_broken_images_alone(tiny, tmp_path, shapes, capsys):
    import shutil

    root = tmp_path / "broken"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "009.png").write_bytes(b"\x89PNG broken")  # the last one, alone in its batch
    config = tiny(
        "--stages", "[finetune]", "--data.root", str(root), "--data.max_bad", "1", "--eval_batch", "29"
    )
    summary = _run(config)
    assert summary["skipped_images"] == [str(root / "val" / "dot" / "009.png")]
    assert main(["evaluate", "--output", str(config.output)]) == 0
    assert "29 evaluation images" in capsys.readouterr().out


def test_a_failed_prediction_keeps_the_former_file(tiny, tmp_path, shapes, capsys):
    config = tiny("--stages", "[finetune]")
    _run(config)
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"\x89PNG broken")
    table = tmp_path / "out.csv"
    table.write_text("precious")
    assert main(["predict", f"--output={config.output}", str(folder), "--csv", str(table)]) == 2
    assert "a.png" in capsys.readouterr().err
    assert table.read_text() == "precious"


def test_nothing_that_is_not_finite_is_saved(tiny):
    config = tiny(
        "--stages", "[finetune]", "--finetune.base_lr", "1e30", "--finetune.checkpoint_every", "1 steps"
    )
    with pytest.raises(UserError, match="not finite at step"):
        _run(config)
    assert all(tensor.isfinite().all() for tensor in _stored(config, "finetune").values())


def test_a_signal_while_evaluating_saves_and_the_evaluation_is_made_up_for(tiny, tmp_path, monkeypatch):
    """The best network is chosen among the same ones as in a run that was never stopped."""
    from fastsemi.training import trainer

    options = ("--stages", "[finetune]", "--finetune.eval_every", "2 steps")
    whole = _run(tiny("--output", str(tmp_path / "whole"), *options))
    config, evaluate, at = tiny(*options), trainer.evaluate, iter([False, True, False, False, True])

    def interrupted(*args, after_pass, **kwargs):
        if next(at, False):
            os.kill(os.getpid(), signal.SIGUSR1)
        return evaluate(*args, after_pass=after_pass, **kwargs)

    monkeypatch.setattr(trainer, "evaluate", interrupted)
    for step in (4, 8):  # 8: the last one, whose stage has not finished then
        with pytest.raises(Interrupted, match=f"step {step} of 8 of finetune") as caught:
            _run(config)
        assert caught.value.exit_code == 138
        assert read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"] == step
        assert not RunFolder(config.output).result("finetune").exists()
    resumed = _run(config)
    kept = ("top1", "balanced", "chosen", "steps")
    assert {k: resumed["stages"]["finetune"][k] for k in kept} == {
        k: whole["stages"]["finetune"][k] for k in kept
    }
    rows = [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "top1" in row] == [2, 4, 6, 8]


def test_a_signal_while_a_batch_is_waited_for_saves_the_step_before(tiny, tmp_path, monkeypatch):
    from fastsemi.loaders.prefetch import Prefetcher

    config, waits = tiny("--stages", "[finetune]"), iter(range(100))
    wait = Prefetcher._next

    def stuck(self):
        if next(waits) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        return wait(self)

    monkeypatch.setattr(Prefetcher, "_next", stuck)
    started = time.monotonic()
    with pytest.raises(Interrupted, match=r"stopped at step [45] of 8"):
        _run(config)
    assert time.monotonic() - started < 15
    step = read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"]
    assert step in (4, 5)
    _run(config)
    whole = tiny("--stages", "[finetune]", "--output", str(tmp_path / "whole"))
    _run(whole)
    ended, wanted = (checkpoint_file.load(RunFolder(c.output).result("finetune")) for c in (config, whole))
    for name, tensor in wanted["model"].items():
        assert torch.equal(ended["model"][name], tensor), name


@pytest.mark.parametrize("value", ["0", "-1", ".inf", ".nan"])
def test_the_time_to_stop_must_be_one(tiny, value):
    with pytest.raises(UserError, match=r"train\.grace_s is .* must be positive and finite"):
        tiny("--train.grace_s", value)


def test_a_checkpoint_behind_the_new_end_of_a_stage_is_refused(tiny):
    config = tiny("--stages", "[finetune]")
    _run(config)
    (config.output / "checkpoints" / "finetune_result.pt").unlink()
    (config.output / "summary.json").unlink()
    shorter = (
        "--finetune.length",
        "3 steps",
        "--finetune.warmup",
        "1 steps",
        "--train.allow_changed",
        "true",
    )
    with pytest.raises(UserError, match=r"is at step 8, and finetune now ends at step 3"):
        _run(tiny("--stages", "[finetune]", *shorter))
