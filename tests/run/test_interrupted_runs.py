"""Runs that are stopped or killed: what is saved, and that they end as others do."""

import os
import signal
import time

import pytest
import torch

from fastsemi.common.errors import UserError
from fastsemi.probing.probe import Prober
from fastsemi.run.folder import RunFolder
from fastsemi.training.checkpoint.folder import Checkpoints, read_info
from fastsemi.training.trainer import Interrupted

SPREADING = ("--stages", "[finetune, semi]", "--semi.contrast", "1")
SPREADING += ("--semi.spread_weight", "0.5", "--semi.spread_every", "3 steps", "--semi.keep_tokens", "0.5")
SPREADING += ("--semi.merge_tokens", "2")


@pytest.mark.parametrize(
    ("stage", "step", "options"),
    [
        ("finetune", 2, ()),
        ("semi", 4, ()),
        ("semi", 4, SPREADING),
    ],
    ids=["finetune", "semi", "spreading, some of the patches, merged tokens"],
)
def test_an_interrupted_run_ends_like_an_uninterrupted_one(tiny, trained, stage, step, options, runs):
    whole, _ = trained(*options)
    cut = tiny(*options)
    with pytest.raises(Interrupted, match=f"step {step} of 8 of {stage}"):
        runs.train(cut, runs.Quiet(stage, step))
    runs.train(cut)
    runs.assert_equal(runs.weights(whole), runs.weights(cut))
    rows = runs.rows(cut)
    steps = [row["step"] for row in rows if row["stage"] == stage and "loss" in row]
    assert steps == [2, 4, 6, 8], "no step is logged twice"


def test_a_stage_that_goes_on_does_not_make_its_first_classifier_again(tiny, trained, runs, monkeypatch):
    options = ("--stages", "[semi]", "--semi.head", "probe", "--semi.head_views", "2")
    whole, _ = trained(*options)
    cut = tiny(*options)
    with pytest.raises(Interrupted, match="step 4 of 8 of semi"):
        runs.train(cut, runs.Quiet("semi", 4))
    monkeypatch.setattr(Prober, "head", lambda *_, **__: pytest.fail("it is in the checkpoint"))
    runs.train(cut)
    runs.assert_equal(runs.weights(whole), runs.weights(cut))


@pytest.fixture
def one_thread():
    """A forked process does not have the threads of its parent's pool, and must not wait for them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_kill_between_checkpoints_loses_only_the_steps_since_the_last(tiny, trained, one_thread, runs):
    """SIGKILL leaves a whole checkpoint and log rows beyond it. It lies between two rows."""
    (whole, _), config = trained(), tiny()
    pid = os.fork()
    if pid == 0:
        try:
            runs.train(config, runs.Quiet("finetune", 8, signal.SIGKILL))
        finally:
            os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
    # That of step 6 was begun, in the background; that of step 3 was whole before.
    assert read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"] in (3, 6)
    runs.train(config)
    runs.assert_equal(runs.weights(whole), runs.weights(config))
    found, expected = _figures(runs.rows(config)), _figures(runs.rows(whole))
    assert found == expected, "rows are of all steps since the row before"


def _figures(rows):
    """Rows of metrics without their times."""
    times = {"images_per_s", "loader_wait", "seconds"}
    return [{key: value for key, value in row.items() if key not in times} for row in rows]


def test_a_signal_after_a_stages_last_evaluation_stops_before_the_next(tiny, runs):
    class AtTheEnd(runs.Quiet):
        def update(self, step, row):
            pass

        def scores(self, step, scores):
            super().update(step, scores)

    config = tiny("--stages", "[finetune, semi]")
    with pytest.raises(Interrupted, match="before semi"):
        runs.train(config, AtTheEnd("finetune", 8))
    assert set(runs.train(config)["stages"]) == {"finetune", "semi"}


def test_a_torn_line_of_metrics_does_not_stop_a_resumed_run(tiny, runs):
    config = tiny("--stages", "[finetune]")
    with pytest.raises(Interrupted):
        runs.train(config, runs.Quiet("finetune", 4))
    with (config.output / "metrics.jsonl").open("a") as file:
        file.write('null\n{"stage": "fine')
    runs.train(config)
    rows = runs.rows(config)
    assert [row["step"] for row in rows if "loss" in row] == [2, 4, 6, 8]


def test_a_signal_while_evaluating_saves_and_the_evaluation_is_made_up_for(tiny, trained, monkeypatch, runs):
    """The best network is chosen among the same ones as in a run that was never stopped."""
    from fastsemi.training import judge

    options = ("--stages", "[finetune]", "--finetune.eval_every", "2 steps")
    _, whole = trained(*options)
    config, evaluate, at = tiny(*options), judge.evaluate, iter([False, True, False, False, True])

    def interrupted(*args, after_pass, **kwargs):
        if next(at, False):
            os.kill(os.getpid(), signal.SIGUSR1)
        return evaluate(*args, after_pass=after_pass, **kwargs)

    monkeypatch.setattr(judge, "evaluate", interrupted)
    for step in (4, 8):  # 8: the last one, whose stage has not finished then
        with pytest.raises(Interrupted, match=f"step {step} of 8 of finetune") as caught:
            runs.train(config)
        assert caught.value.exit_code == 138
        assert read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"] == step
        assert not RunFolder(config.output).result("finetune").exists()
    resumed = runs.train(config)
    kept = ("top1", "balanced", "chosen", "steps")
    assert {k: resumed["stages"]["finetune"][k] for k in kept} == {
        k: whole["stages"]["finetune"][k] for k in kept
    }
    rows = runs.rows(config)
    assert [row["step"] for row in rows if "top1" in row] == [2, 4, 6, 8]


@pytest.mark.parametrize("step", [4, 8])
def test_a_signal_between_a_step_and_its_evaluation_leaves_that_owed(tiny, trained, runs, step):
    """After the last step too, where without it the stage would end with the scores of an earlier one."""
    options = ("--stages", "[finetune]", "--finetune.eval_every", "2 steps")
    (_, whole), config = trained(*options), tiny(*options)
    with pytest.raises(Interrupted, match=f"step {step} of 8 of finetune"):
        runs.train(config, runs.Quiet("finetune", step))
    resumed = runs.train(config)
    for key in ("top1", "balanced", "chosen"):
        assert resumed["stages"]["finetune"][key] == whole["stages"]["finetune"][key]
    assert [row["step"] for row in runs.rows(config) if "top1" in row] == [2, 4, 6, 8]


def test_a_signal_waits_until_the_best_network_is_written(tiny, monkeypatch, runs):
    """The checkpoint that follows speaks of its file."""
    from fastsemi.training import selection

    config, save = tiny("--stages", "[finetune]"), selection.checkpoint_file.save

    def interrupted(content, path):
        if "_best-" in path.name:
            monkeypatch.undo()
            os.kill(os.getpid(), signal.SIGTERM)
        save(content, path)

    monkeypatch.setattr(selection.checkpoint_file, "save", interrupted)
    with pytest.raises(Interrupted, match="step 4 of 8 of finetune"):
        runs.train(config)
    assert (config.output / "checkpoints" / "finetune_best-000000004.pt").exists()
    assert [row["step"] for row in runs.rows(config) if "top1" in row] == [4]


def test_a_signal_while_a_batch_is_waited_for_saves_the_step_before(tiny, trained, monkeypatch, runs):
    from fastsemi.loaders.prefetch import Prefetcher

    (whole, _), config = trained("--stages", "[finetune]"), tiny("--stages", "[finetune]")
    waits = iter(range(100))
    wait = Prefetcher._next

    def stuck(self):
        if next(waits) == 5:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(200)
        return wait(self)

    monkeypatch.setattr(Prefetcher, "_next", stuck)
    started = time.monotonic()
    with pytest.raises(Interrupted, match=r"stopped at step [45] of 8"):
        runs.train(config)
    assert time.monotonic() - started < 100
    step = read_info(Checkpoints(config.output / "checkpoints", "finetune").latest())["step"]
    assert step in (4, 5)
    runs.train(config)
    runs.assert_equal(runs.weights(config, "finetune"), runs.weights(whole, "finetune"))


@pytest.mark.parametrize("value", ["0", "-1", ".inf", ".nan"])
def test_the_time_to_stop_must_be_one(tiny, value):
    with pytest.raises(UserError, match=r"train\.grace_s is .* must be positive and finite"):
        tiny("--train.grace_s", value)
