"""Rehearsals: stages on tensors of a GPU that is not there."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest

from fastsemi.kernels import dispatch
from fastsemi.run import config as configuration
from fastsemi.run.rehearse import rehearse_evaluation, rehearse_step
from fastsemi.tools.estimate.sizes import open_data

IMAGENET = Path(__file__).parents[2] / "configs/imagenet"
SIZES = Namespace(train_images=20_000, classes=1000, unlabelled_images=None)
KERNELS = {"triton": dispatch._triton_kernels, "torch": dispatch.Kernels}


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """The function `paper(size, stage, batch, **settings)`: the paper's configuration, and 20,000 images.

    `batch` is what one GPU has at a time; a step is a single one unless `micro_batches` says otherwise.
    """
    monkeypatch.chdir(tmp_path)

    def load(size, stage, batch, micro_batches=1, **settings):
        config = configuration.load([IMAGENET / f"vit_{size}_10p.yaml"], [])
        own = replace(
            getattr(config, stage), batch=batch * micro_batches, micro_batches=micro_batches, **settings
        )
        config = replace(config, **{stage: own})
        return config, open_data(config, SIZES)[0]

    return load


@pytest.fixture
def rehearse():
    """The function `rehearse(config, stage, data, dtype, kernels)`: a step, or of `images` an evaluation."""

    def run(config, stage, data, dtype, kernels="triton", images=None):
        options = {"dtype": dtype, "kernels": KERNELS[kernels]()}
        if images is None:
            return rehearse_step(config, stage, data, **options)
        return rehearse_evaluation(config, stage, data, images, **options)

    return run


@pytest.fixture
def sound():
    """The function `sound(found, ...)`: a rehearsal is as it is stated to be."""

    def check(found, *, waits, uploads, operations, flops, peak):
        wrong = {
            "the host waits in": (dict(found.waits), waits),
            "uploads in": (dict(found.uploads), uploads),
            "tensors of the host's in": (dict(found.mixed), {}),
            "operations": (len(found.operations), pytest.approx(operations, rel=0.03)),
            "FLOPs": (found.flops, pytest.approx(flops, rel=0.005)),
            "a peak of": (found.peak, pytest.approx(peak, rel=0.02)),
        }
        lines = [f"{what} {got}, not {stated}" for what, (got, stated) in wrong.items() if got != stated]
        assert not lines, "; ".join(lines)

    return check
