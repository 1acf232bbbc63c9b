"""On which images a run is evaluated, and on which its network is chosen: what its figures are worth."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote
from typing import Any

import numpy as np

from fastsemi.common.listed import listed
from fastsemi.loaders.data import Data
from fastsemi.run.config import Config

EVALUATION = "evaluation images"
HELD_OUT = "held-out labelled images"
NOTHING = "nothing"


def evaluated_on(config: Config) -> str:
    """What accuracies are of."""
    if not config.data.evaluates:
        return NOTHING
    return HELD_OUT if config.data.val is None else EVALUATION


def selected_on(config: Config) -> str | None:
    """What `train.select: best` goes by; None where nothing is chosen."""
    if config.train.select == "last" or not config.data.evaluates:
        return None
    return HELD_OUT if config.data.labels.validation else EVALUATION


def held_out_lines(config: Config, data: Data) -> Iterator[str]:
    """What a run says first of the labels that train nothing."""
    if not config.data.evaluates:
        yield "nothing is evaluated (data.val is null, data.labels.validation 0): all labels train"
    if not config.data.labels.validation:
        return
    count, best = len(data.held_out.ids), config.train.select == "best"
    some = f"{count:,} of the {len(data.all_labelled.ids):,} labelled images train nothing"
    if config.data.val is None:
        choose = ", and they choose the network, which flatters it" if best else ""
        yield f"no evaluation set (data.val is null): {some}, all accuracies are of them{choose}"
        missing = np.setdiff1d(np.arange(len(data.classes)), data.held_out.index.labels[data.held_out.ids])
        if len(missing):
            names = listed([data.classes[c] for c in missing])
            have = "has" if len(missing) == 1 else "have"
            yield (
                f"{len(missing)} of {len(data.classes)} classes {have} none among them ({names}); raise "
                "data.labels.validation, or label more"
            )
    elif best:
        yield f"{some}, the network is chosen on them"
    else:
        yield (
            f"{some} and choose nothing, as train.select is last; set it to best, or "
            "data.labels.validation to 0"
        )


def all_labels_line(config: Config, summary: dict[str, Any]) -> str | None:
    """How to train on the labels too that only judged a run; None where each label has trained."""
    if not config.data.labels.validation or not (held := summary.get("held_out")):
        return None
    if any(name not in summary["stages"] for name in config.stages):
        return None
    data = config.data
    if data.val is not None and data.unlabeled is None and summary.get("unlabelled", held + 1) <= held:
        return None  # the held-out images are the only unlabelled ones
    plan, mirror = config.plan, config.train.mirror
    files = {"plan.record": plan.record, "plan.replay": plan.replay, "train.mirror": mirror}
    apart = "".join(f" --{key} null" for key, value in files.items() if value)  # they are of this run
    output = config.output if config.output.name not in ("", "..") else config.output.resolve()
    judged = "evaluates nothing" if config.data.val is None else "is judged on the evaluation images"
    return (
        f"{held:,} labels trained nothing; this trains on all {summary['labelled'] + held:,} and {judged}: "
        f"fastsemi train --config {quote(str(config.output / 'config.yaml'))} --output "
        f"{quote(f'{output}_all')} --data.labels.validation 0 --train.select last{apart}"
    )


def honest(summary: dict[str, Any]) -> bool:
    """Whether networks were chosen on other images than those that they are evaluated on."""
    return summary.get("selected_on") not in (None, summary.get("evaluated_on"))


def selection_notes(summary: dict[str, Any]) -> list[str]:
    """What a reader of the figures must know of the images that they are of."""
    notes = []
    if summary.get("evaluated_on") == NOTHING:
        notes.append("all labels have trained, nothing was evaluated")
    if summary.get("evaluated_on") == HELD_OUT:
        count = summary["held_out"]
        notes.append(f"no evaluation set: accuracies are of {count:,} labelled images that trained nothing")
    if summary.get("selected_on") and any("chosen" in entry for entry in summary["stages"].values()):
        if honest(summary):
            notes.append(f"chosen: by top-1 on {summary['held_out']:,} labelled images that trained nothing")
        else:
            notes.append("chosen: by top-1 on the same images, which flatters it")
    return notes
