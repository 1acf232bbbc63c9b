"""Warnings of the semi stage."""

import pytest
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.run.run import Run
from fastsemi.stages.advice import AcceptanceAlarm, cheaper_steps, slow_teacher
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.stages.semi_config import SemiConfig


@pytest.mark.parametrize(
    ("momentum", "steps", "words"),
    [
        (0.9999, 58, "99% of the teacher is still what it began with; semi.momentum 0.82 would"),
        (0.99, 30, "74% of the teacher is still what it began with; semi.momentum 0.66 would"),
        (0.99, 8, "92% of the teacher is still what it began with; semi.momentum 0 would"),
        (0.9999, 50_000, None),
        (0.99, 400, None),
        (0.0, 1, None),
    ],
)
def test_a_teacher_that_cannot_follow_is_named_with_a_momentum_that_would(momentum, steps, words):
    said = slow_teacher(SemiConfig(momentum=momentum), steps)
    assert said is None if words is None else words in said


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (SemiConfig(), None),
        (FinetuneConfig(image_sizes=(224,)), None),
        (FinetuneConfig(image_sizes=(160, 224)), "finetune.image_sizes makes"),
        (
            SemiConfig(image_sizes=(160, 224), label_passes=2),
            "semi.image_sizes and semi.label_passes make some",
        ),
    ],
)
def test_settings_that_make_some_steps_cheaper_are_named(config, words):
    said = cheaper_steps(config)
    assert said is None if words is None else said.startswith(words)


@pytest.mark.parametrize(("rate", "words"), [(0.0, "no pseudo label"), (1.0, "every pseudo label")])
def test_a_threshold_that_decides_nothing_is_told_once(rate, words):
    alarm = AcceptanceAlarm()
    said = [alarm(value) for value in (rate, rate, 0.5, rate, rate, None, rate, rate, rate, 1 - rate)]
    assert [bool(text) for text in said] == [False] * 6 + [True] + [False] * 3
    assert words in said[6]


def test_a_run_says_both(tiny, capsys):
    options = ("--stages", "[semi]", "--semi.momentum", "0.999", "--semi.threshold", "1", "--log_every", "1")
    config = tiny(*options)
    Run(config, Progress(Console(soft_wrap=True))).train(config.stages)
    said = capsys.readouterr().out
    assert "semi: semi.momentum 0.999 is high for 8 steps" in said
    assert said.count("semi: no pseudo label has passed the threshold") == 1
