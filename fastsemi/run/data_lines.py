"""What a run says first of its images: counts of the index, no image is opened."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.run.config import Config
from fastsemi.stages.names import StageName, has_classifier

UNEVEN = 3.0  # images of the largest class by those of the smallest, from where on it is told


def data_lines(config: Config, data: Data, stages: Sequence[StageName]) -> Iterator[str]:
    """How many images of which use a run has, and in a second line what is odd about them, if anything is.

    Args:
        config: The run.
        data: Its images.
        stages: Those that are to be trained.
    """
    if not any(has_classifier(name) for name in stages):
        yield f"data: {len(data.pretraining.ids):,} images to pretrain on"
        odd = [_broken(config, [data.pretraining])]
    else:
        rest = data.unlabelled_or_none if {"semi", "pretrain"} & set(stages) else None
        labels = data.train.index.labels  # -1 of those that a table names without a label, or does not name
        counts = np.bincount(labels[labels >= 0], minlength=len(data.classes))
        of = "" if labels.min() >= 0 else " labels"
        held = len(data.held_out.ids)
        parts = [
            f"{len(data.train.ids):,} training images",
            f"{len(counts):,} classes ({counts.min():,} to {counts.max():,}{of})",
            f"{len(data.labelled.ids):,} labelled",
            *([f"{held:,} of them held out"] if held and config.data.val is not None else []),
            *([] if rest is None else [f"{len(rest.ids):,} unlabelled"]),
            f"{len(data.val.ids):,} to evaluate on" if config.data.evaluates else "none to evaluate on",
        ]
        yield f"data: {', '.join(parts)}"
        sets = [data.labelled, data.val, data.selection, *([] if rest is None else [rest])]
        sets += [data.pretraining] if "pretrain" in stages else []
        odd = [_broken(config, sets), _uneven(config, data, stages)]
        odd += [_unevaluated(data)] if config.data.evaluates else []
    if told := [text for text in odd if text]:
        yield f"data: {'; '.join(told)}"


def _broken(config: Config, sets: Sequence[ImageSet]) -> str:
    """Images of these whose beginning cannot be read."""
    names = {
        images.source.name(int(i)) for images in sets for i in np.intersect1d(images.ids, images.index.broken)
    }
    if not names:
        return ""
    return f"{len(names):,} cannot be read, such as {min(names)} (data.max_bad is {config.data.max_bad})"


def _uneven(config: Config, data: Data, stages: Sequence[StageName]) -> str:
    """Classes of different size, where nothing in the configuration allows for them."""
    counts = np.bincount(data.labelled.index.labels[data.labelled.ids], minlength=len(data.classes))
    if counts.max() < UNEVEN * counts.min():
        return ""
    ready = [config.finetune.balanced, config.finetune.logit_adjustment] if "finetune" in stages else []
    ready += [config.semi.balanced, config.semi.logit_adjustment] if "semi" in stages else []
    if any(ready):
        return ""
    return (
        f"the largest class has {counts.max():,} labels and the smallest {counts.min():,}: judge by balanced "
        "accuracy, or try balanced or logit_adjustment"
    )


def _unevaluated(data: Data) -> str:
    """Classes without an image to evaluate on."""
    none = np.setdiff1d(np.arange(len(data.classes)), data.val.index.labels[data.val.ids])
    if not len(none):
        return ""
    have = "class has" if len(none) == 1 else "classes have"
    return f"{len(none):,} {have} no image to evaluate on"
