"""A trained classifier as a folder that timm opens by itself."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import nn

from fastsemi.common.checksums import add_checksum, damage, is_listed, write_checksums
from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.models.create import model_args
from fastsemi.models.pretrained import licence, published_name
from fastsemi.models.settings import ModelConfig, refuse_loading

CALIBRATION = "calibration.json"  # beside timm's own files, which timm does not look at


def export_timm(
    model: nn.Module,
    folder: Path,
    *,
    config: ModelConfig,
    class_names: tuple[str, ...],
    image_size: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    crop: float,
) -> None:
    """Save a model so that `timm.create_model("local-dir:FOLDER", pretrained=True)` gives the same logits.

    Args:
        model: A model of `create_model`.
        folder: Where to write `config.json` and `model.safetensors`.
        config: What `create_model` built it from.
        class_names: Names of the classes, by index.
        image_size: Side of the input in pixels.
        mean: Channel means that the input is normalised with.
        std: Channel deviations.
        crop: Evaluation crop fraction.
    """
    preprocessing = {
        "input_size": (3, image_size, image_size),
        "mean": mean,
        "std": std,
        "crop_pct": crop,
        "interpolation": "bicubic",
        # Not that of timm's default weights, which these need not have come from.
        "license": licence(published_name(config.name, config.pretrained)) if config.pretrained else None,
    }
    model.pretrained_cfg = {**model.pretrained_cfg, **preprocessing}  # type: ignore
    save_for_hf(
        model,
        str(folder),
        model_config={
            "model_args": model_args(config, image_size),
            "label_names": list(class_names),
            "pretrained_cfg": preprocessing,
        },
        safe_serialization=True,
    )
    write_checksums(folder)


def open_timm(folder: Path) -> nn.Module:
    """The model that `export_timm` saved, with its settings as `pretrained_cfg`.

    Among these is `temperature`, from `write_calibration`; 1 where nothing was calibrated.

    timm itself would also read a pickled file that lies there, or another file that the settings name. Here
    only `config.json` and `model.safetensors` are read, and no code comes from either.

    Raises:
        UserError: A file is missing or is not what was written.
    """
    reason = damage(folder, ["config.json", "model.safetensors"])
    if reason is None:
        try:
            settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            refuse_loading(settings["model_args"])
            if not timm.is_model(settings["architecture"]):  # such as a name on a hub
                raise ValueError(f"{settings['architecture']} is no network of timm")
            model = timm.create_model(settings["architecture"], pretrained=False, **settings["model_args"])
            model.load_state_dict(load_file(folder / "model.safetensors"))
            preprocessing = {**settings["pretrained_cfg"], "label_names": settings["label_names"]}
            preprocessing["temperature"] = float(
                (read_calibration(folder) or {"temperature": 1})["temperature"]
            )
            if not 0 < preprocessing["temperature"] < math.inf:
                raise ValueError(f"temperature is {preprocessing['temperature']}")
            model.pretrained_cfg = preprocessing  # type: ignore[assignment]
            return model
        except (SafetensorError, ValueError, LookupError, TypeError, RuntimeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
    raise UserError(
        f"the model in {folder} is damaged ({reason}); delete that folder and repeat `fastsemi train` with "
        "the run's configuration, which writes it again"
    )


def write_calibration(folder: Path, calibration: dict[str, Any]) -> None:
    """Keep beside a model what its confidences are worth.

    Args:
        folder: From `export_timm`.
        calibration: Has the key `temperature`, which divides the logits.
    """
    with replacing(folder / CALIBRATION) as file:
        file.write(json.dumps(calibration, indent=2) + "\n")
    add_checksum(folder, CALIBRATION)


def is_calibrated(folder: Path) -> bool:
    """Whether `write_calibration` came to its end."""
    return is_listed(folder, CALIBRATION)


def read_calibration(folder: Path) -> dict[str, Any] | None:
    """What `write_calibration` kept; None where it did not come to an end."""
    if not is_calibrated(folder):
        return None
    return json.loads((folder / CALIBRATION).read_text(encoding="utf-8"))
