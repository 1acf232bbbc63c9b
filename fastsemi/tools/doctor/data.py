"""Checks of a configuration's images and weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from fastsemi.loaders.data import Data, ImageSet
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.models.pretrained import published_name
from fastsemi.run.config import Config
from fastsemi.run.order import STAGE_CLASSES
from fastsemi.run.start_weights import are_here, check_network, doubts, start_weights, summary
from fastsemi.stages.base import make_schedule
from fastsemi.tools.doctor.check import Check, examine

_TRIED = 32  # images of a set that are decoded


def check_data(config: Config) -> Iterator[Check]:
    """Look at every set of images that the configuration's stages use.

    Each set is opened and counted; images whose beginning is broken are known then. A few images, spread over
    the set, are decoded by the configuration's engine.
    """
    data = Data(config.data, config.loader)
    sets: list[tuple[str, Callable[[], ImageSet]]] = [("pretraining images", lambda: data.pretraining)]
    if set(config.stages) != {"pretrain"}:
        sets = [
            ("labelled images", lambda: data.labelled),
            *([("unlabelled images", lambda: data.unlabelled)] if "semi" in config.stages else []),
            *([("held-out images", lambda: data.held_out)] if config.data.labels.validation else []),
            *([] if config.data.val is None else [("evaluation images", lambda: data.val)]),
        ]
    try:
        for name, images in sets:
            yield examine(name, lambda name=name, images=images: _check_set(data, name, images()))  # type: ignore[misc]
        for stage in config.stages:
            yield examine(f"stage {stage}", lambda stage=stage: _check_stage(config, data, stage))  # type: ignore[misc]
        if config.model.has_weights:
            yield examine("weights", lambda: _check_weights(config, data))
    finally:
        data.close()


def _check_set(data: Data, name: str, images: ImageSet) -> Check:
    """Count, classes, images whose beginning is broken, and a trial of the engine."""
    index, ids = images.index, images.ids
    if not len(ids):
        return Check(name, "problem", f"{index.root} holds no images", "add some, or correct data.root")
    sizes = np.asarray(index.sizes[ids])
    broken = ids[(sizes == 0).any(axis=1)]
    labels = np.asarray(index.labels[ids])
    classes = len(np.unique(labels[labels >= 0]))
    found = f"{len(ids):,} in {index.root}" + (f", {classes:,} classes" if classes else "")
    if len(broken):
        first = images.source.name(int(broken[0]))
        found += f"; {len(broken):,} cannot be read, the first: {first}"
        cure = f"repair or remove them, or set data.max_bad to {len(broken)} or more to skip them"
        return Check(name, "problem" if len(broken) > data.config.max_bad else "note", found, cure)
    data.require_memory(images)
    some = ids[np.unique(np.linspace(0, len(ids) - 1, _TRIED).astype(int))]
    with data.load(images, evaluation_batches(index, some, len(some), 1.0)) as loader:
        for _ in loader:
            pass
    return Check(name, "ok", f"{found}; {len(some)} of them decoded by {data.engine(images).name}")


def _check_stage(config: Config, data: Data, stage: str) -> Check:
    """Whether its batches fit the data and its schedule."""
    settings = getattr(config, stage)
    roles = STAGE_CLASSES[stage].build_roles(settings, data, config.seed)  # type: ignore[index]
    stream = next(iter(roles.values())).stream
    steps = make_schedule(settings, stream).total_steps
    return Check(f"stage {stage}", "ok", f"{steps:,} steps of {stream.batch:,} images")


def _check_weights(config: Config, data: Data) -> Check:
    """Whether the weights that the run starts from are to be had, and fit the network."""
    # What would have to be downloaded is left to training.
    start = start_weights(config.model) if config.model.weights or are_here(config.model) else None
    report = None
    for stage in config.stages:
        report = check_network(config, stage, len(data.classes), start)
    if start is None or report is None:
        where = published_name(config.model.name, config.model.pretrained)
        cure = "training downloads them; without a connection give a file as model.weights"
        return Check("weights", "note", f"those published as {where} are not on this machine", cure)
    said = f"{start[0]}: {summary(config, report)}"
    if texts := doubts(config, report.format):
        found, cures = zip(*(text.split("; ", 1) for text in texts), strict=True)
        return Check("weights", "note", "; ".join([said, *found]), "; ".join(cures))
    return Check("weights", "ok", said)
