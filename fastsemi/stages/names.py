"""The names of the stages, in the order in which they follow one another."""

from __future__ import annotations

from typing import Literal, get_args

StageName = Literal["pretrain", "finetune", "semi"]
STAGES: tuple[StageName, ...] = get_args(StageName)


def has_classifier(name: str) -> bool:
    """Whether a stage trains a classifier with labels, so that it can be evaluated; pretraining does not."""
    return name != "pretrain"
