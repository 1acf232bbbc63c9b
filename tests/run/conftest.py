"""What the tests of whole runs share."""

import json
import os
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

from fastsemi.common.progress import Progress
from fastsemi.run.folder import RunFolder
from fastsemi.run.run import Run
from fastsemi.training.checkpoint import file as checkpoint_file
from fastsemi.training.checkpoint.folder import Checkpoints, read_tensors, shapes


class Quiet(Progress):
    """Shows nothing; on request sends the process a signal at a step, as a user or a scheduler would."""

    def __init__(self, stage=None, step=None, number=signal.SIGTERM):
        super().__init__(Console(quiet=True))
        self._signal_at, self._number = (stage, step), number

    def update(self, step, row):
        if (self._stage, step) == self._signal_at:
            os.kill(os.getpid(), self._number)


def train(config, progress=None):
    """Train all stages; the summary."""
    return Run(config, progress or Quiet()).train(config.stages)


def weights(config, stage="semi"):
    """The weights that a finished stage left."""
    return checkpoint_file.load(RunFolder(config.output).result(stage))["model"]


def stored(config, stage):
    """The tensors of the latest checkpoint, by name; none without one."""
    folder = Checkpoints(config.output / "checkpoints", stage).latest()
    tensors = {name: torch.empty(shape) for name, shape in shapes(folder).items()} if folder else {}
    if folder:
        read_tensors(folder, tensors)
    return tensors


def rows(config):
    """The rows of `metrics.jsonl`."""
    return [json.loads(line) for line in (config.output / "metrics.jsonl").read_text().splitlines()]


def assert_equal(a, b):
    """Tensors by name are equal, bit for bit."""
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.fixture(scope="session")
def runs():
    """The helpers above."""
    return SimpleNamespace(
        Quiet=Quiet, train=train, weights=weights, stored=stored, rows=rows, assert_equal=assert_equal
    )


@pytest.fixture(scope="session")
def trained(make_tiny, tmp_path_factory):
    """The function `trained(*options)`: configuration and summary of a run that is only read."""
    known = {}

    def get(*options):
        if options not in known:
            folder = tmp_path_factory.mktemp("trained")
            config = make_tiny(folder)(*options)
            known[options] = config, train(config)
        return known[options]

    return get


@pytest.fixture
def finetuned(trained, tiny, tmp_path):
    """A copy of a run that has fine-tuned, for a test that changes it."""
    shutil.copytree(trained("--stages", "[finetune]")[0].output, tmp_path / "run")
    return tiny("--stages", "[finetune]")
