"""Threshold rules inside whole runs: resuming, micro-batches, skipping, the log."""

import json
import os
import signal

import pytest
import torch
from rich.console import Console

from fastsemi.common.errors import Interrupted
from fastsemi.common.progress import Progress
from fastsemi.run.build import build_stage
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, shapes

RULES = ["flexmatch", "freematch", "softmatch"]


class _StopAt(Progress):
    """Asks the run to stop once a step is reported."""

    def __init__(self, step=None):
        super().__init__(Console(quiet=True))
        self._at = step

    def update(self, step, row):
        if step == self._at:
            os.kill(os.getpid(), signal.SIGTERM)


def _options(rule, *more):
    averages = [f"--semi.{rule}.momentum", "0.5"] if rule != "flexmatch" else []
    return [
        "--stages",
        "[semi]",
        "--semi.threshold_rule",
        rule,
        "--semi.micro_batches",
        "2",
        *averages,
        *more,
    ]


def _train(config, stop=None):
    return Run(config, _StopAt(stop)).train(config.stages)


def _result(config):
    return checkpoint_file.load(config.output / "checkpoints" / "semi_result.pt")["model"]


@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_ends_with_the_same_weights(rule, tiny, tmp_path):
    whole = tiny(*_options(rule, "--output", str(tmp_path / "whole")))
    _train(whole)
    halves = tiny(*_options(rule, "--output", str(tmp_path / "halves")))
    with pytest.raises(Interrupted):
        _train(halves, stop=4)
    saved = Checkpoints(halves.output / "checkpoints", "semi").latest()
    assert any(name.startswith("extra.rule.") for name in shapes(saved))
    _train(halves)
    one, two = _result(whole), _result(halves)
    assert all(torch.equal(one[name], two[name]) for name in one)
    rows = [json.loads(line) for line in (whole.output / "metrics.jsonl").read_text().splitlines()]
    accepted = [row["acceptance"] for row in rows if "acceptance" in row]
    assert len(accepted) == 4 and all(0 <= share <= 1 for share in accepted)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("mixing", ["none", "pseudo_plus", "prob"])
def test_leaving_rejected_samples_out_changes_no_gradient(rule, mixing, tiny):
    gradients = []
    for skip in ("true", "false"):
        config = tiny(
            *_options(rule, "--semi.skip_rejected", skip, "--semi.mixing", mixing, "--semi.drop_path", "0")
        )
        run = RunContext(config)
        stage = build_stage(run, "semi")
        if rule == "freematch":
            stage.rule.level.fill_(0.34)
        if rule == "flexmatch":
            stage.rule.counts.copy_(torch.tensor([30.0, 5, 100]))
        batch = {}
        for name, role in stage.roles.items():
            with run.data.load(role.images, [role.stream.plan(3, 0)]) as loader:
                batch[name] = run.views.to_device(next(loader))
        stage.loss(batch).loss.backward()
        gradients.append([p.grad for p in stage.model.parameters()])
        run.close()
    for a, b in zip(*gradients, strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm().clamp(min=1e-12)
