"""Batches that the images fill: those that nobody set by hand become smaller where there are fewer images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.run.config import Config
from fastsemi.stages.names import STAGES, StageName

_log = logging.getLogger(__name__)


def fit_batches(
    config: Config,
    data: Data,
    stages: Sequence[StageName],
    by_hand: Set[str] | None,
    say: Callable[[str], None] = _log.warning,
) -> Config:
    """The run with batches no larger than its data.

    Args:
        config: The run.
        data: Its images.
        stages: Those that are to run; what is wrong with the data of others is left to them.
        by_hand: Dotted keys that stay as they are (`fastsemi.run.config.by_hand`); None for all.
        say: Called with each change, a line.

    Raises:
        UserError: As the data of `stages`.
    """
    if by_hand is None:
        return config
    for name in STAGES:
        if name in stages:
            config = _fit(config, data, name, by_hand, say)
        elif name in config.stages:
            with suppress(UserError):  # compared with what it was begun with, where it was begun
                config = _fit(config, data, name, by_hand, lambda text: None)
    return config


def with_fitting_batches(config: Config, by_hand: Set[str] | None, *, strict: bool = True) -> Config:
    """The run with batches no larger than its data, which is opened for that alone.

    Args:
        config: The run.
        by_hand: As of `fit_batches`.
        strict: Whether wrong data is an error; otherwise whoever looks at it next says so.

    Raises:
        UserError: As the data of its stages, where `strict`.
    """
    data = Data(config.data, config.loader)
    try:
        return fit_batches(config, data, config.stages if strict else (), by_hand)
    finally:
        data.close()


def _fit(
    config: Config, data: Data, name: StageName, by_hand: Set[str], say: Callable[[str], None]
) -> Config:
    settings: Any = getattr(config, name)
    images, what = _images(data, name)
    changes: dict[str, int] = {}
    if settings.batch > images >= settings.micro_batches and f"{name}.batch" not in by_hand:
        changes["batch"] = images - images % settings.micro_batches
        say(f"{name}.batch: {changes['batch']} in place of {settings.batch}, as there are {images} {what}")
    if name == "semi" and (others := data.unlabelled_or_none) is not None:
        batch = changes.get("batch", settings.batch)
        most = len(others.ids) // batch
        if settings.unlabelled_ratio > most >= 1 and "semi.unlabelled_ratio" not in by_hand:
            changes["unlabelled_ratio"] = most
            said = f"semi.unlabelled_ratio: {most} in place of {settings.unlabelled_ratio}"
            say(f"{said}, as there are {len(others.ids)} unlabelled images for batches of {batch}")
    return replace(config, **{name: replace(settings, **changes)}) if changes else config  # type: ignore[arg-type]


def _images(data: Data, name: StageName) -> tuple[int, str]:
    """How many images a batch of a stage may have, and what they are called."""
    if name == "pretrain":
        return len(data.pretraining.ids), "images"
    labelled, others = len(data.labelled.ids), data.unlabelled_or_none
    if name == "semi" and others is not None and len(others.ids) < labelled:
        return len(others.ids), "unlabelled images"
    return labelled, "labelled images that train"
