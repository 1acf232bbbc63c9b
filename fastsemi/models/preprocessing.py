"""The images that a network's weights were trained on: their size, normalisation and crop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError

Channels = tuple[float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """The images that a network was trained on."""

    image_size: int
    mean: Channels
    std: Channels
    eval_crop: float


def beside(weights: Path) -> Preprocessing | None:
    """What `config.json` beside a file of weights says, as timm writes it and `fastsemi train` leaves it.

    Args:
        weights: The file of weights; it is not opened.

    Returns:
        None where there is no such file, or it says nothing of images.

    Raises:
        UserError: The file is damaged.
    """
    path = weights.with_name("config.json")
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        said = content.get("pretrained_cfg") if isinstance(content, dict) else None
        if not isinstance(said, dict) or not {"input_size", "mean", "std"} <= said.keys():
            return None
        crop = float(said.get("crop_pct", 1.0))
        return Preprocessing(
            int(said["input_size"][-1]), _channels(said["mean"]), _channels(said["std"]), crop
        )
    except (ValueError, TypeError, IndexError, RecursionError):
        raise UserError(f"{path} does not say how images go into {weights.name}; mend or remove it") from None


def _channels(values: Any) -> Channels:
    r, g, b = map(float, values)
    return r, g, b
