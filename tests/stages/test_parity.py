"""The semi stage against recordings of the authors' own loop: the loss of each step, and where weights end.

`tests/stages/parity/` has two; the folder that FASTSEMI_PARITY names may have more, as .pt files.
Their draws (partners, weights, boxes), images and start go into the project's own trainer and stage.
"""

import json
import math
import os
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file

from fastsemi.common.errors import Interrupted
from fastsemi.common.progress import Progress
from fastsemi.loaders.plan.types import LoadedBatch, MixPlan, PlannedBatch, ViewPlan
from fastsemi.loaders.prefetch import Loader
from fastsemi.run import config as configuration
from fastsemi.run.build import build_stage, build_trainer
from fastsemi.run.context import RunContext
from fastsemi.training.metrics import MetricLog

HERE = Path(__file__).parent / "parity"
MORE = Path(os.environ.get("FASTSEMI_PARITY", HERE))
LAYER_DECAY = 0.75
KEPT = {path.stem: path for path in HERE.glob("*.json")}
FILES = KEPT | {path.stem: path for path in MORE.glob("*.pt")}


def read(path):
    """A recording: the fields that the .pt files have."""
    if path.suffix == ".pt":
        return torch.load(path, weights_only=False)
    shared, end = load_file(HERE / "shared.safetensors"), load_file(path.with_suffix(".safetensors"))
    data = [shared[name] for name in ("images", "labels", "weak", "strong", "truth")]
    return {
        **json.loads(path.read_text()),
        "data": list(zip(*data, strict=True)),
        "start": {name[6:]: tensor for name, tensor in shared.items() if name.startswith("start.")},
        "end": {name[4:]: tensor for name, tensor in end.items()},
    }


def steps_of(recording):
    """For each step its micro-batches: images, labels, weak and strong views, and their true labels."""
    parts = recording["accum"]
    if len(recording["data"]) == parts * len(recording["losses"]):
        flat = recording["data"]
        steps = [flat[i : i + parts] for i in range(0, len(flat), parts)]
    else:
        steps = [
            list(zip(*(np.split(np.asarray(a), parts) for a in step), strict=True))
            for step in recording["data"]
        ]
    return [[[torch.as_tensor(np.asarray(a)) for a in micro] for micro in step] for step in steps]


class Draws:
    """The draws of a recording, one after another."""

    def __init__(self, rec):
        self._rec, self._at = rec, 0

    def __next__(self):
        if self._at == len(self._rec):
            raise StopIteration
        self._at += 1
        return self._rec[self._at - 1]

    def left(self):
        return self._rec[self._at :]


def mixes_of(recording, sizes):
    """The plans of mixing of each micro-batch, labelled and unlabelled, in the order of the draws."""
    draws = Draws(recording["rec"])
    even = "0.4.5" in recording["edges"]

    def plan(count, partner, lam, cutmix, side=16):
        centre = np.full((count, 2), 0.5, np.float32)
        return MixPlan(np.asarray(partner), np.asarray(cutmix), centre, np.float32(lam), even)

    def batch(count, partner):
        _, lam, cutmix = next(draws)
        made = plan(count, partner, np.full(count, lam), np.full(count, bool(cutmix)))
        if cutmix:
            made.centre[:] = centre()
        return made

    def centre():
        kind, y, x, _ = next(draws)
        assert kind == "box"
        return (x + 0.5) / 16, (y + 0.5) / 16

    found = []
    for labelled, unlabelled in sizes:
        first = batch(labelled, np.arange(labelled)[::-1]) if recording["labelled_mix"] else None
        second = plan(unlabelled, np.arange(unlabelled), np.ones(unlabelled), np.zeros(unlabelled, bool))
        if recording["mode"] == "prob":
            cutmix = next(draws)[1]
            second = plan(unlabelled, next(draws)[1], np.ones(unlabelled), cutmix)
            for i in np.flatnonzero(cutmix):
                second.centre[i] = centre()
        elif recording["mode"] == "pseudo":
            second = batch(unlabelled, np.arange(unlabelled)[::-1])
            if draws.left() and draws.left()[0][0] == "perm":
                second.partner[:] = next(draws)[1]
        found.append((first, second))
    assert not draws.left(), "all draws are used"
    return found


def stand_ins(root, classes):
    """A folder of images that are never read: the recording's take their place."""
    for split, count in (("train", 24), ("val", 1)):
        for label in range(classes):
            (root / split / f"class{label}").mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (16, 16)).save(root / split / f"class{label}" / f"{i}.png")
    return root


def preset(recording, root, output):
    """The run of a recording, of which `compat` is all that is said about the authors' choices."""
    first = steps_of(recording)[0]
    labelled, unlabelled = (sum(len(micro[k]) for micro in first) for k in (0, 2))
    even = "even" if "0.4.5" in recording["edges"] else "exact"
    mix = {} if recording["labelled_mix"] else {"mixup": 0.0, "cutmix": 0.0}
    lrs, width = recording["lrs"], recording["start"]["cls_token"].shape[-1]
    warmup, peak = int(np.argmax(lrs)), max(lrs)
    done = math.acos(2 * (lrs[-1] - 1e-6) / (peak - 1e-6) - 1) / math.pi  # share of the cosine, at the end
    total = warmup + round((len(lrs) - 1 - warmup) / done)
    return {
        "compat": "official",
        "output": str(output),
        "device": "cpu",
        "precision": "fp32",
        "stages": ["semi"],
        "log_every": 1,
        "train": {"select": "last", "baseline": "none"},
        "data": {"root": str(root), "labels": {"per_class": 8}, "image_size": 16},
        "model": {
            "name": "vit_tiny_patch16_224",
            "args": {"patch_size": 4, "embed_dim": width, "depth": 3, "num_heads": recording["num_heads"]},
        },
        "semi": {
            "batch": labelled,
            "unlabelled_ratio": unlabelled // labelled,
            "micro_batches": recording["accum"],
            "length": f"{total} steps",
            "warmup": f"{warmup} steps",
            "eval_every": "999 steps",
            "checkpoint_every": "999 steps",
            "base_lr": peak * 256 / labelled,
            "layer_decay": recording.get("layer_decay", LAYER_DECAY),
            "threshold": recording["threshold"],
            "drop_path": 0.0,
            "mixing": recording["mode"],
            "label_smoothing": recording["label_smoothing"],
            "momentum": recording["ema_decay"] if recording["ema_teacher"] else 0.0,
            "mix": {"box": even},
            "labelled_mix": {"box": even, **mix},
        },
    }


def follow(recording, settings, folder):
    """Run a recording's steps through the trainer; the losses of all steps, and the stage after them."""
    folder.mkdir()
    (folder / "preset.yaml").write_text(yaml.safe_dump(settings))
    run = RunContext(configuration.load([folder / "preset.yaml"], []))
    stage = build_stage(run, "semi")
    for network in (stage.model, stage.teacher.model):
        network.load_state_dict(recording["start"])
    log = MetricLog(folder / "metrics.jsonl", folder / "board")
    trainer = build_trainer(run, stage, "semi", log, Progress(Console(quiet=True)))
    micros = [micro for step in steps_of(recording) for micro in step]
    mixes = mixes_of(recording, [(len(micro[0]), len(micro[2])) for micro in micros])

    @contextmanager
    def load(images, plans, *, image_size=None):
        def batches():
            for micro, mix in zip(micros, mixes, strict=True):
                views = (micro[2], micro[3]) if unlabelled else (micro[0],)
                labels = micro[4] if unlabelled else micro[1]
                count = len(labels)
                still = ViewPlan(
                    np.tile(np.array([[0, 0, 16, 16]], np.int32), (count, 1)), np.zeros(count, bool)
                )
                ids = stage.roles["unlabelled" if unlabelled else "labelled"].stream.ids[:count]
                plan = PlannedBatch(ids, labels.long().numpy(), (still,) * len(views), mix[unlabelled])
                yield LoadedBatch(plan, torch.stack(views), np.ones(count, bool))
            raise Interrupted("the recording ends", 0)

        unlabelled = images is stage.roles["unlabelled"].images
        yield Batches(batches())

    try:
        with pytest.raises(Interrupted):
            trainer.run(load)
    finally:
        log.close()
        run.close()
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows], stage, trainer


class Batches(Loader):
    """Batches that are there."""

    waited = 0.0

    def __init__(self, batches):
        self._batches = batches

    def __next__(self):
        return next(self._batches)

    def close(self):
        pass


def moved_apart(ours, theirs, start):
    """How far weights end from the recorded ones, as a share of the way that these went; without key biases,
    which softmax cancels, so that their gradient is noise."""
    apart = went = 0.0
    for name, tensor in theirs.items():
        keep = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith("qkv.bias"):
            keep[len(tensor) // 3 : 2 * len(tensor) // 3] = False
        apart += (ours[name].double() - tensor.double())[keep].square().sum()
        went += (tensor.double() - start[name].double())[keep].square().sum()
    return float((apart / went).sqrt())


@pytest.mark.parametrize("name", sorted(FILES))
def test_forty_steps_end_where_the_authors_loop_ends(name, tmp_path):
    recording = read(FILES[name])
    folder = stand_ins(tmp_path / "images", len(recording["start"]["head.bias"]))
    losses, stage, trainer = follow(recording, preset(recording, folder, tmp_path / "run"), tmp_path / "log")
    assert [trainer.schedule.lr(step) for step in range(len(losses))] == pytest.approx(
        recording["lrs"], rel=1e-12
    )
    error = np.abs(np.array(losses) - recording["losses"])
    assert len(losses) == len(recording["losses"]) and error.max() < 2e-6, error
    assert moved_apart(stage.model.state_dict(), recording["end"], recording["start"]) < 1e-4
    if "ema" in recording and recording["ema_teacher"]:
        assert moved_apart(stage.teacher.model.state_dict(), recording["ema"], recording["start"]) < 1e-4
