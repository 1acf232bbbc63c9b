"""What the weights of a stage depend on, so that a run directory never mixes two configurations."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.run.config import Config, plain
from fastsemi.run.folder import RunFolder
from fastsemi.stages.names import STAGES, StageName, has_classifier
from fastsemi.training.selection import EVALUATED

# What may change between two calls of the same run: where it runs and what it reports, not what it learns.
# (Another device, kernel or engine rounds differently.)
FREE_KEYS = (
    "output",
    "compat",  # each key that it decides is compared
    "precision",  # compared as the type it resolves to
    "stages",
    "train.allow_changed",
    "train.baseline",
    "train.calibrate",
    "train.keep",
    "train.mirror",
    "train.loggers",
    "train.grace_s",
    "train.watchdog_s",
    "device",
    "kernels",
    "model.activation_checkpointing",  # the gradients are the same
    "compile",
    "distributed",
    "log_every",
    "eval_batch",
    "loader",
    "plan",  # compared as the draws that are replayed
    "data.root",  # a copy on another disk will do: names and labels of the images are compared
    "data.val",  # the images count, wherever they lie
    "data.max_bad",
    "data.max_pixels",
    "data.reindex",
)
# The pretraining stage sees neither labels nor a head.
FREE_PRETRAIN_KEYS = (
    "data.eval_crop",
    "data.eval_resize",
    "data.labels",
    "data.unlabelled_includes_labelled",
    "model.fc_norm",
    "model.head_init_scale",
    "model.keep_head",
)
FREE_STAGE_KEYS = ("eval_every", "checkpoint_every")
# What may differ between the nodes of a run.
NODE_KEYS = ("device", "loader", "data.root", "data.reindex")


def fingerprint(config: Config, stage: StageName, earlier: Sequence[StageName]) -> dict[str, Any]:
    """The settings that the weights of a stage depend on, by dotted key.

    Args:
        config: The run.
        stage: The stage.
        earlier: The stages it starts from.
    """
    free = (*FREE_KEYS, *(() if has_classifier(stage) else FREE_PRETRAIN_KEYS))
    if config.data.val is None:  # the labels say which images are evaluated on, and not trained on
        free = tuple(key for key in free if key != "data.labels")
    others = {s for s in STAGES if s not in earlier and s != stage}
    kept = {
        key: value
        for key, value in _flatten(plain(config)).items()
        if not _is_below(key, (*free, *others)) and key.rsplit(".", 1)[-1] not in FREE_STAGE_KEYS
    }
    return {**kept, "start": list(earlier)}


def node_settings(config: Config) -> dict[str, Any]:
    """The settings that all processes of a run must have alike, by dotted key."""
    return {key: value for key, value in _flatten(plain(config)).items() if not _is_below(key, NODE_KEYS)}


def refuse_differences(first: dict[str, Any], mine: dict[str, Any]) -> None:
    """Refuse to train with a process that has other settings or images.

    Raises:
        UserError: Names the machine of this process, and the first thing that differs.
    """
    for key in {**first, **mine}:
        if first.get(key) != mine.get(key):
            raise UserError(
                f"{key} is {mine.get(key)} on {socket.gethostname()} and {first.get(key)} in the first "
                "process; give all nodes the same command and the same data"
            )


def changes(then: dict[str, Any], now: dict[str, Any], written: Mapping[str, Any] | None = None) -> list[str]:
    """What differs between the settings that a stage was begun with and those of now, one text a key.

    A key that was not compared then had the value that is `written`, in the run's configuration. Where this
    version brought it, it had what is its default now; which images were evaluated on is not known then. A
    key that is free by now does not count.

    Args:
        then: As of `fingerprint`, when the stage was begun.
        now: As of `fingerprint`.
        written: The run's configuration as it was, nested.
    """
    defaults = {**_flatten(plain(Config())), EVALUATED: now.get(EVALUATED), **_flatten(dict(written or {}))}
    before = {key: value for key, value in defaults.items() if key in now}
    before |= {k: value for k, value in then.items() if k in now or not _is_below(k, FREE_KEYS)}
    return [
        f"{key}: {before.get(key)}, now {now.get(key)}"
        for key in {**before, **now}
        if before.get(key) != now.get(key)
    ]


def refuse_changes(changed: Sequence[str], stage: str, folder: Path) -> None:
    """Refuse to go on with other settings than those that a stage was begun with.

    Raises:
        UserError: Names the first of `changes`.
    """
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{folder} holds stage {stage} with other settings ({changed[0]}{more}); "
            f"go on with --config {RunFolder(folder).config}, which holds every key, give another --output, "
            "delete the directory, or set train.allow_changed"
        )


def _is_below(key: str, prefixes: Sequence[str]) -> bool:
    return any(key == prefix or key.startswith(f"{prefix}.") for prefix in prefixes)


def flat(config: Config) -> dict[str, Any]:
    """All settings by dotted key."""
    return _flatten(plain(config))


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
