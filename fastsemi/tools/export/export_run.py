"""Write the network of a finished run for other programs, with what they need to feed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision
from fastsemi.models.export import copy_model, export, open_exported, require_onnx
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.summary import read_summary
from fastsemi.run.trained import load_trained
from fastsemi.tools.export.card import write_card
from fastsemi.tools.export.check import Network, from_files
from fastsemi.tools.export.contract import contract, write_script

ExportFormat = Literal["onnx", "pt2", "timm"]


@dataclass(frozen=True)
class Exported:
    """What was written."""

    path: Path
    lines: tuple[str, ...]
    """What to tell of it."""


def export_run(
    config: Config, form: ExportFormat, to: Path | None, *, with_normalisation: bool, check: int = 0
) -> Exported:
    """Write `model/` of a run, and a script that feeds it.

    Args:
        config: The run.
        form: onnx, pt2 for `torch.export.load`, or timm for a copy of the folder with a model card.
        to: A file, or a folder for timm; by default model.onnx or model.pt2 in the run.
        with_normalisation: Whether the file takes pixels in [0, 1] and applies mean and deviation itself.
        check: Evaluation images on which a file is tried from their files.

    Raises:
        UserError: No such format, no trained network, options that do not go together, or what `export`
            raises.
    """
    if form not in (forms := get_args(ExportFormat)):
        raise UserError(f"there is no format {form}; give one of {', '.join(forms)}")
    folder = RunFolder(config.output)
    folder.require_model()
    if form not in get_args(ExportFormat):
        raise UserError(f"format {form!r} is unknown; give one of {', '.join(get_args(ExportFormat))}")
    target = to or config.output / f"model.{form}"
    if form == "timm":
        if to is None:
            raise UserError(f"{folder.model} is the timm folder; give --to FOLDER to copy it")
        if with_normalisation:
            raise UserError(
                "a timm folder holds mean and deviation as settings; leave out --with_normalisation"
            )
    elif target.is_dir():
        raise UserError(f"{target} is a folder; give --to a file name")
    if form == "onnx":
        require_onnx()
    model, classes = load_trained(config, Precision.select("fp32", torch.device("cpu")))
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    terms = contract(settings, config.data, normalises=with_normalisation)
    if form == "timm":
        with copy_model(folder.model, target) as fresh:
            write_card(fresh / "README.md", config, read_summary(folder.summary), classes)
            write_script(fresh / "preprocess.py", terms)
        return Exported(target, (f"{target}, with README.md (a model card) and preprocess.py",))
    difference = export(
        model,
        target,
        form,
        with_normalisation=with_normalisation,
        reading={"resize": config.data.eval_resize, "exif": config.data.exif},
    )
    script = target.with_name(f"{target.name.replace('.', '_')}_preprocess.py")
    write_script(script, terms, network=target.name if form == "onnx" else None)
    lines = [
        f"{target}, largest difference from PyTorch {difference:.1e} of the largest logit",
        f"{script}, which turns a picture's file into its input",
    ]
    if check:
        lines.append(_tried(config, model, open_exported(target, form), terms, check))
    return Exported(target, tuple(lines))


def _tried(config: Config, model: nn.Module, exported: Network, terms: Mapping[str, Any], count: int) -> str:
    """How the written file does on original files, where there are any."""
    try:
        found = from_files(config, model, exported, terms, count)
    except UserError as error:
        return f"not tried on evaluation images: {error}"
    why = "they are packed as pixels" if config.data.evaluates else "there are none"
    return str(found or f"not tried on evaluation images: {why}")
