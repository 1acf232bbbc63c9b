"""The time of a run: lengths from costs, and runs whose lengths were chosen."""

import json
import os
import signal
import time
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.progress import Progress
from fastsemi.common.schedule import Duration
from fastsemi.run import config as configuration
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.tools.budget import budget as budgets
from fastsemi.tools.budget import lengths
from fastsemi.tools.budget import measure as measuring
from fastsemi.tools.budget.budget import Budget
from fastsemi.tools.budget.lengths import LEAST, MOST, StageCost, choose, scaled
from fastsemi.training.checkpoint import file as checkpoint_file

FINETUNE = FinetuneConfig(
    length=Duration("200 steps"),
    warmup=Duration("10 steps"),
    eval_every=Duration("50 steps"),
    checkpoint_every=Duration("1 epochs"),
)
SEMI = SemiConfig(
    length=Duration("10 epochs"),
    warmup=Duration("1 epochs"),
    eval_every=Duration("100 steps"),
    checkpoint_every=Duration("400 steps"),
    spread_every=Duration("20 steps"),
)
CONFIG = Config(finetune=FINETUNE, semi=SEMI)
COSTS = {"finetune": StageCost(5, 2.0, 0.1, 1.0, 0.25), "semi": StageCost(40, 3.0, 0.5, 2.0, 1.0)}


def test_the_time_of_a_stage_is_that_of_its_parts():
    """200 steps, evaluations at 50, 100, 150 and 200, and of 5 steps each 40 checkpoints."""
    assert COSTS["finetune"].seconds(FINETUNE, FINETUNE) == pytest.approx(2 + 200 * 0.1 + 4 * 1 + 40 * 0.25)
    assert COSTS["semi"].seconds(SEMI, SEMI) == pytest.approx(3 + 400 * 0.5 + 4 * 2 + 1 * 1)
    odd = replace(SEMI, eval_every=Duration("399 steps"))  # one at 399, one at the end
    assert COSTS["semi"].seconds(odd, SEMI) == pytest.approx(3 + 400 * 0.5 + 2 * 2 + 1 * 1)


def test_spreading_grows_with_its_images_until_they_are_all():
    cost = StageCost(40, 0, 0, spread=3.0)
    assert cost.seconds(SEMI, SEMI) == pytest.approx(20 * 3)
    half = scaled(SEMI, 0.5, 40)  # as often, of half the images
    assert cost.seconds(half, SEMI) == pytest.approx(20 * 3 / 2)
    threefold = scaled(SEMI, 3, 40)  # 60 steps between two times see all images of 12 steps
    assert cost.seconds(threefold, SEMI) == pytest.approx(20 * 3 * 2**2)


@pytest.mark.parametrize("factor", [0.1, 0.37, 1.0, 2.6, 10.0])
def test_a_schedule_keeps_its_shape(factor):
    long = scaled(FINETUNE, factor, 5)
    steps = round(200 * factor)
    assert long.length == f"{steps} steps" and long.warmup == f"{round(10 * factor)} steps"
    assert -(-steps // long.eval_every.steps(5)) == 4, "as many evaluations"
    assert long.checkpoint_every == "1 epochs", "what is in epochs stays"
    semi = scaled(SEMI, factor, 40)
    assert semi.length.unit == semi.warmup.unit == "epochs"
    assert semi.length.value == pytest.approx(10 * factor) and semi.warmup.value == pytest.approx(factor)
    assert -(-semi.length.steps(40) // semi.spread_every.steps(40)) == pytest.approx(20, abs=1)
    assert replace(semi, **{key: getattr(SEMI, key) for key in vars(SEMI) if "every" in key}) == replace(
        SEMI, length=semi.length, warmup=semi.warmup
    ), "nothing else changes"


def test_a_warm_up_stays_shorter_than_its_stage():
    tight = replace(FINETUNE, length=Duration("100 steps"), warmup=Duration("99 steps"))
    for factor in (0.1, 0.104, 0.5):
        long = scaled(tight, factor, 5)
        assert long.warmup.steps(5) < long.length.steps(5)


@pytest.mark.parametrize("seconds", [60, 200, 276, 1000])
def test_the_longest_stages_that_fit(seconds):
    """A factor that is little larger takes too long; the stages keep their ratio in steps."""
    _, chosen = choose(CONFIG, COSTS, ["finetune", "semi"], seconds)
    stages = {"finetune": FINETUNE, "semi": SEMI}

    def total(factor):
        new = {name: scaled(stage, factor, COSTS[name].steps_per_epoch) for name, stage in stages.items()}
        return sum(cost.seconds(new[name], stages[name]) for name, cost in COSTS.items())

    assert total(chosen.factor) == pytest.approx(chosen.seconds)
    assert chosen.seconds <= seconds < total(chosen.factor * 1.02 + 0.005)
    assert (chosen.factor > 1) == (seconds > total(1.0))
    steps = [COSTS[name].steps(getattr(chosen.config, name)) for name in stages]
    assert steps[1] / steps[0] == pytest.approx(400 / 200, rel=0.1)


def test_stages_have_a_least_and_a_most():
    shortest, chosen = choose(CONFIG, COSTS, ["finetune", "semi"], 10)
    assert shortest == chosen and chosen.seconds > 10
    assert COSTS["finetune"].steps(chosen.config.finetune) == LEAST
    _, chosen = choose(CONFIG, COSTS, ["finetune", "semi"], 1e9)
    assert chosen.factor == MOST and chosen.config.finetune.length == "2000 steps"
    _, chosen = choose(CONFIG, COSTS, ["semi"], 200)
    assert chosen.config.finetune == FINETUNE, "it counts, but its length is chosen already"
    assert chosen.seconds <= 200 < COSTS["finetune"].seconds(FINETUNE, FINETUNE) + 212


def test_a_stage_keeps_a_step_for_each_of_its_image_sizes():
    many = replace(FINETUNE, image_sizes=tuple(range(213, 225)))
    shortest, _ = choose(Config(finetune=many), COSTS, ["finetune"], 10)
    assert COSTS["finetune"].steps(shortest.config.finetune) == len(many.image_sizes) > LEAST


class _Quiet(Progress):
    """Keeps what is said; at a step of a stage it may send a signal."""

    def __init__(self, stage=None, step=None):
        super().__init__(Console(quiet=True))
        self._signal_at, self.said = (stage, step), []
        self.console.print = lambda text, **_: self.said.append(text)

    def update(self, step, row):
        if (self._stage, step) == self._signal_at:
            os.kill(os.getpid(), signal.SIGTERM)


def _train(config, text=None, progress=None):
    """A run; with a `text` in that time. Returns its configuration and what it said."""
    progress = progress or _Quiet()
    run = Run(config, progress)
    run.train(config.stages, None if text is None else Budget(text, time.monotonic()))
    return run.config, progress.said


@pytest.fixture
def short(tiny, monkeypatch):
    """`tiny` of two stages of 4 steps, which every long budget makes 12 steps long, on any machine."""
    monkeypatch.setattr(lengths, "MOST", 3.0)
    monkeypatch.setattr(budgets, "_LONGEST", 0.01)
    monkeypatch.setattr(measuring, "_MOST", 3)
    stages = [f"--{s}.{k}" for s in ("finetune", "semi") for k in ("length", "warmup")]
    steps = [word for key in stages for word in (key, "4 steps" if "length" in key else "1 steps")]
    every = ["--finetune.eval_every", "2 steps", "--semi.checkpoint_every", "1 steps"]
    further = [
        "--finetune.spread_ratio",
        "1",
        "--semi.spread_weight",
        "0.5",
        "--semi.spread_every",
        "2 steps",
    ]
    return tiny("--stages", "[finetune, semi]", *steps, *every, *further)


def _weights(config):
    return checkpoint_file.load(RunFolder(config.output).result("semi"))["model"]


def test_a_run_keeps_its_lengths_and_equals_one_that_was_given_them(short, tmp_path):
    with pytest.raises(Interrupted, match="of 12 of semi"):
        _train(short, "10 minutes", _Quiet("semi", 8))
    stored = configuration.load([tmp_path / "run" / "config.yaml"], [])
    assert stored.finetune.length == stored.semi.length == "12 steps"
    assert stored.semi.warmup == stored.semi.checkpoint_every == "3 steps"
    assert stored.finetune.eval_every == stored.semi.spread_every == "6 steps"
    folder = RunFolder(stored.output)
    assert not folder.trial.exists() and folder.spread_labels.exists()

    config, said = _train(short, "1 minute")
    assert config == stored
    assert any("stay: semi 12 steps" in line for line in said)
    assert not any("measuring" in line for line in said)
    plain, _ = _train(replace(stored, output=tmp_path / "plain"))
    mine, theirs = _weights(config), _weights(plain)
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)

    record = json.loads(folder.summary.read_text())["budget"]
    assert record["seconds"] == 600 and record["stages"] == ["finetune", "semi"]
    assert 0 < record["planned"] < 600


def _kept(config):
    """The length of fine-tuning that a run would go on with."""
    run = Run(config, _Quiet())
    try:
        return Budget("10 minutes", time.monotonic()).kept(run.context).finetune.length
    finally:
        run.context.close()


def test_lengths_stay_for_later_stages_and_not_for_other_settings(short):
    alone = replace(short, stages=("finetune",))
    config, _ = _train(alone, "10 minutes")
    assert config.finetune.length == "12 steps" and config.semi.length == "4 steps"
    assert _kept(short) == "12 steps", "the stage has finished"
    folder = RunFolder(config.output)
    folder.result("finetune").unlink()
    for path in folder.checkpoints.glob("finetune-*"):
        path.rename(path.with_name(f"old-{path.name}"))
    assert _kept(alone) == "12 steps", "chosen, but not begun"
    assert _kept(replace(alone, finetune=replace(alone.finetune, batch=10))) == "4 steps"


def test_too_short_a_time_is_refused_with_one_that_will_do(short):
    alone = replace(short, stages=("finetune",))
    with pytest.raises(
        UserError, match=r"--budget 1 s is too short for 10 steps .* at least (\d+ min )?\d+ s"
    ):
        _train(alone, "1 s")
    folder = RunFolder(alone.output)
    assert not folder.config.exists() and not folder.trial.exists() and not folder.spread_labels.exists()


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--budget", "10"], ["'10' is no time", "'10 minutes'"]),
        (["--budget", "10", "minutes"], ["minutes"]),
        (["--budget", "1 h", "--dry_run"], ["--dry_run", "--budget"]),
    ],
)
def test_wrong_times_are_refused(words, parts, tiny, tmp_path, capsys):
    assert main(["train", "--config", str(tmp_path / "tiny.yaml"), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and all(part in error for part in parts)


def test_a_run_ends_by_saying_how_long_it_took(tiny, tmp_path):
    folder = RunFolder(tmp_path)
    folder.summary.write_text(
        json.dumps({"stages": {}, "budget": {"seconds": 60, "planned": 50, "spent": 30, "stages": []}})
    )
    budget = Budget("1 minute", time.monotonic() - 15)
    budget._trains = True
    assert budget.end(folder) == "took 45 s of the 1 min 00 s it was given"
    assert json.loads(folder.summary.read_text())["budget"]["spent"] == pytest.approx(45, abs=1)
