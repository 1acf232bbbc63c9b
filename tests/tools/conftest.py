"""What the tests of estimates share."""

import json

import pytest

from fastsemi.run.config import plain
from fastsemi.run.memory import measure_stage
from fastsemi.stages.names import STAGES
from fastsemi.tools.estimate import dry_run, stages

# Settings that no tensor of a step depends on.
RUN = ("output", "train", "stages", "log_every", "seed")
STAGE = ("length", "warmup", "base_lr", "min_lr", "threshold", "eval_every", "checkpoint_every")


def _key(config, name, data, options):
    tree = plain(config)
    settings, images = tree.pop(name), tree.pop("data")
    for key in (*RUN, *STAGES):
        tree.pop(key, None)
    for key in STAGE:
        settings.pop(key, None)
    for key in ("labels", "root"):
        images.pop(key)
    sizes = len(data.train.ids), len(data.classes)
    return json.dumps([name, tree, settings, images, sizes, str(options)], sort_keys=True)


@pytest.fixture(scope="session")
def measured():
    """What `measure_stage` found, by the settings that it depends on."""
    return {}


@pytest.fixture
def measured_once(monkeypatch, measured):
    """Stages of equal tensors are measured once, which takes most of the time of an estimate."""

    def measure(config, name, data, **options):
        key = _key(config, name, data, options)
        if key not in measured:
            measured[key] = measure_stage(config, name, data, **options)
        return measured[key]

    for module in (dry_run, stages):
        monkeypatch.setattr(module, "measure_stage", measure)
