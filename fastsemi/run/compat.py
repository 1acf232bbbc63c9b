"""What `compat: official` stands for: the authors' choices, setting by setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Set
from typing import Any, Literal

from fastsemi.stages.semi_config import MixMode

Compat = Literal["fastsemi", "official"]


def official(mixing: MixMode) -> dict[str, Any]:
    """The settings that the authors' code has otherwise than fastsemi, by dotted key (docs/paper.md).

    Args:
        mixing: Of unlabelled images.
    """
    labelled = {"box": "even", "per_batch": True, "partners": "reversed"}
    unlabelled = {"box": "even", "per_batch": mixing == "pseudo"}
    stages = ("pretrain", "finetune", "semi")
    return {
        "data.eval_resize": "shorter_side",
        "model.fc_norm": "fresh",
        "model.class_token_std": 0.02,
        "pretrain.as_published": True,
        "semi.pseudo_smoothing": "mixed",
        "semi.student_start": "weights",
        **{f"{stage}.drop_last": True for stage in stages},
        **{f"{stage}.rate_at": "start" for stage in stages},
        **{f"finetune.mix.{name}": value for name, value in labelled.items()},
        **{f"semi.labelled_mix.{name}": value for name, value in labelled.items()},
        **{f"semi.mix.{name}": value for name, value in unlabelled.items()},
    }


def with_choices(config: Any, choices: Mapping[str, Any], given: Set[str]) -> Any:
    """A run's configuration with settings by dotted key, except those that `given` keys name."""
    for key, value in choices.items():
        if key not in given:
            config = _replaced(config, key.split("."), value)
    return config


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(
        settings, **{name: _replaced(getattr(settings, name), rest, value) if rest else value}
    )
