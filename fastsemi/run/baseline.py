"""What the labels of a run are worth without training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import digest
from fastsemi.parallel import processes
from fastsemi.probing.probe import MOST_CLASSES, MOST_LABELLED, Baseline
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext


def judge_baselines(run: RunContext, say: Callable[[str], None] = lambda text: None) -> list[Baseline]:
    """Judge simple classifiers on the pixels and, where weights are given, on their frozen features.

    Raises:
        UserError: The labels are of one class, or the weights do not fit.
    """
    kinds: list[tuple[str, nn.Module | None]] = [("pixels", None)]
    if run.config.model.has_weights:
        kinds.append(("frozen features", frozen_network(run)))
    found = []
    for name, network in kinds:
        say(f"{name}: looking at the images")
        found += run.prober.baselines(run.prober.features(name, network), say)
    return found


@dataclass(frozen=True)
class Judged:
    """Simple classifiers on the labels of a run."""

    rows: list[Baseline]
    """The best one first."""
    labels: int
    classes: int
    images: int
    """That they are judged on."""


def judge_run(config: Config, say: Callable[[str], None] = lambda text: None) -> Judged:
    """`judge_baselines` of a configuration whose run need not exist."""
    if not config.data.evaluates:
        raise UserError(
            "there are no images to judge classifiers on (data.val is null, data.labels.validation 0); set "
            "one of them"
        )
    run = RunContext(config)
    try:
        found = judge_baselines(run, say)
        counts = len(run.data.labelled.ids), len(run.data.classes), len(run.data.val.ids)
    finally:
        run.close()
    return Judged(sorted(found, key=lambda row: -row.top1), *counts)


def frozen_network(run: RunContext, classes: int | None = None) -> nn.Module:
    """The network with the given weights, in evaluation mode.

    Args:
        run: Names the network and its weights.
        classes: How many the network tells apart; by default those of the data.
    """
    from fastsemi.models.create import create_model, use_fused_attention  # which need timm, as pixels do not
    from fastsemi.run.build import load_weights

    config = run.config
    classes = len(run.data.classes) if classes is None else classes
    model = create_model(config.model, num_classes=classes, image_size=config.data.image_size)
    load_weights(run, model, quiet=True)
    use_fused_attention(model, run.precision.fused_attention)
    return model.to(run.device).eval().requires_grad_(False)


def baselines_digest(data: Data) -> str:
    """A fingerprint of what simple classifiers learn from and are judged on."""
    return digest([data.labelled, data.val], labels=True)


def wants_baselines(run: RunContext) -> bool:
    """Whether they are to be judged, and worth it."""
    few = len(run.data.labelled.ids) <= MOST_LABELLED and len(run.data.classes) <= MOST_CLASSES
    few &= run.config.data.evaluates  # else there is nothing to judge them on
    return run.config.train.baseline == "auto" and few and processes.world() == 1
