"""What `compat: official` stands for: the authors' choices, setting by setting."""

from __future__ import annotations

import dataclasses
from collections.abc import Set
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from fastsemi.run.config import Config

Compat = Literal["fastsemi", "official"]


def official(config: Config) -> dict[str, Any]:
    """The settings that the authors' code has otherwise than fastsemi, by dotted key (docs/paper.md).

    Args:
        config: The run, of which the mixing of unlabelled images counts.
    """
    labelled = {"box": "even", "per_batch": True, "partners": "reversed"}
    unlabelled = {"box": "even", "per_batch": config.semi.mixing == "pseudo"}
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


def fit_to_compat(config: Config, given: Set[str]) -> Config:
    """The run with the settings that `compat` stands for, except those that `given` dotted keys name."""
    if config.compat == "fastsemi":  # the defaults of the settings
        return config
    for key, value in official(config).items():
        if key not in given:
            config = _replaced(config, key.split("."), value)
    return config


def _replaced(settings: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return dataclasses.replace(
        settings, **{name: _replaced(getattr(settings, name), rest, value) if rest else value}
    )
