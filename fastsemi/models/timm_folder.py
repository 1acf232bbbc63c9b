"""A trained classifier as a folder that timm opens by itself."""

from __future__ import annotations

from pathlib import Path

from timm.models import save_for_hf
from torch import nn

from fastsemi.models.create import model_args
from fastsemi.models.settings import ModelConfig


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
