"""The images that a network's weights were trained on: their size, normalisation and crop."""

from __future__ import annotations

import json
import math
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

    Before timm 0.9.0 what is in `pretrained_cfg` now stood beside the network's name.

    Args:
        weights: The file of weights; it is not opened.

    Returns:
        None where there is no such file, or it says nothing of images.

    Raises:
        UserError: The file cannot be read, is damaged, or says what no image has.
    """
    path = weights.parent / "config.json"  # `with_name` refuses what is no name
    try:
        if not path.is_file():
            return None
        content = json.loads(path.read_text(encoding="utf-8"))
        said = content.get("pretrained_cfg", content) if isinstance(content, dict) else None
        if not isinstance(said, dict) or not {"input_size", "mean", "std"} <= said.keys():
            return None
        return _checked(said)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; allow it or remove the file") from None
    except (ValueError, TypeError, RecursionError):
        raise UserError(f"{path} does not say how images go into {weights.name}; mend or remove it") from None


def _checked(said: dict[str, Any]) -> Preprocessing:
    """What is said, where it may be true.

    Raises:
        ValueError: It may not.
        TypeError: So.
    """
    _, height, width = said["input_size"]
    mean, std, crop = _channels(said["mean"]), _channels(said["std"]), float(said.get("crop_pct", 1.0))
    possible = all(0 <= m <= 1 for m in mean) and all(0 < s < math.inf for s in std) and 0 < crop <= 1
    if not possible or not isinstance(width, int) or not 0 < height == width:
        raise ValueError(said)
    return Preprocessing(width, mean, std, crop)


def _channels(values: Any) -> Channels:
    r, g, b = map(float, values)
    return r, g, b
