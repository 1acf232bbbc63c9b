"""What the tests of estimates share."""

import dataclasses
import hashlib
import json
import os
import pickle

import pytest
import torch

from fastsemi.models.create import create_model
from fastsemi.models.timm_folder import export_timm
from fastsemi.run.config import plain, to_yaml
from fastsemi.run.context import RunContext
from fastsemi.run.memory import measure_stage
from fastsemi.stages.names import STAGES
from fastsemi.tools.estimate import dry_run, stages

# Settings that no tensor of a step depends on.
RUN = ("output", "train", "stages", "log_every", "seed", "data", "distributed")
STAGE = ("length", "warmup", "base_lr", "min_lr", "betas", "threshold", "eval_every", "checkpoint_every")
# Those of which only zero or not matters, or whether they are given.
SOME = ("drop_path", "momentum", "ema", "weight_decay", "weights")
ONE = ("layer_decay",)  # or one
MEASURE = {"dtype": "torch.bfloat16", "fused_attention": "True"}  # its defaults


def _key(config, name, options):
    """How many classes there are is not in it: that changes the head, which no test with presets looks at."""
    tree = plain(config)
    settings, size = _shape(tree.pop(name)), tree["data"]["image_size"]
    for key in (*RUN, *STAGES):
        tree.pop(key, None)
    for key in STAGE:
        settings.pop(key, None)
    settings["batch"] /= settings.pop("micro_batches")
    options = MEASURE | {key: str(value) for key, value in options.items()}
    return json.dumps([name, _shape(tree), settings, size, options], sort_keys=True)


def _shape(tree):
    if not isinstance(tree, dict):
        return tree
    small = {key: bool(value) for key, value in tree.items() if key in SOME}
    small |= {key: value == 1 for key, value in tree.items() if key in ONE}
    return {key: _shape(value) for key, value in tree.items()} | small


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """`measure_stage` that measures stages of equal tensors once for all processes of the tests."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "measured"
    folder.mkdir(exist_ok=True)

    def once(config, name, data, **options):
        path = folder / hashlib.sha256(_key(config, name, options).encode()).hexdigest()
        if not path.exists():
            made = path.with_suffix(f".{os.getpid()}")
            made.write_bytes(pickle.dumps(measure_stage(config, name, data, **options)))
            made.replace(path)
        needs = pickle.loads(path.read_bytes())
        return dataclasses.replace(needs, micro_batches=getattr(config, name).micro_batches)

    return once


@pytest.fixture
def measured_once(monkeypatch, measured):
    """Estimates by the function above: measuring is most of the time that they take."""
    for module in (dry_run, stages):
        monkeypatch.setattr(module, "measure_stage", measured)


@pytest.fixture
def left():
    """The function `left(config, seed)`: the folder of a run that left a network, untrained as it is."""

    def leave(config, seed):
        run = RunContext(config)
        torch.manual_seed(seed)
        data = config.data
        model = create_model(config.model, num_classes=3, image_size=data.image_size)
        torch.nn.init.normal_(model.get_classifier().weight)  # which a new one has almost at zero
        export_timm(
            *(model, run.folder.model),
            **{"config": config.model, "class_names": run.data.classes, "image_size": data.image_size},
            **{"mean": data.mean, "std": data.std, "crop": data.eval_crop},
        )
        run.folder.config.write_text(to_yaml(config))
        run.close()
        return config.output

    return leave
