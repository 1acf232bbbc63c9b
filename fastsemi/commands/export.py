"""The command `fastsemi export`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError
from fastsemi.run.folder import RunFolder

if TYPE_CHECKING:
    from torch import nn

    from fastsemi.run.config import Config
    from fastsemi.tools.export.check import Network


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi export` with the words that follow it; returns the exit code."""
    parser = command_parser("export", "Write a run's model for other programs.")
    parser.add_argument(
        "--format",
        choices=("onnx", "pt2", "timm"),
        default="onnx",
        help="onnx, pt2 (torch.export), or timm: a copy of the folder model/ with a model card",
    )
    parser.add_argument("--to", type=Path, help="file, or folder for timm; by default RUN/model.onnx or .pt2")
    parser.add_argument(
        "--with_normalisation",
        "--with-normalisation",
        action="store_true",
        help="the file takes pixels in [0, 1] and applies mean and deviation itself",
    )
    parser.add_argument(
        "--check",
        type=int,
        default=256,
        metavar="N",
        help="evaluation images on which the written file is tried from their files, 0 for none",
    )
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    folder = RunFolder(config.output)
    folder.require_model()
    if options.check < 0:
        raise UserError(f"--check is {options.check}; give a number of images, or 0 for none")
    import torch

    from fastsemi.common.precision import Precision
    from fastsemi.models.export import copy_model, export, open_exported, require_onnx
    from fastsemi.run.summary import read_summary
    from fastsemi.run.trained import load_trained
    from fastsemi.tools.export.card import write_card
    from fastsemi.tools.export.contract import contract, write_script

    to = options.to or config.output / f"model.{options.format}"
    if options.format == "timm":
        if options.to is None:
            raise UserError(f"{folder.model} is the timm folder; give --to FOLDER to copy it")
        if options.with_normalisation:
            raise UserError(
                "a timm folder holds mean and deviation as settings; leave out --with_normalisation"
            )
    elif to.is_dir():
        raise UserError(f"{to} is a folder; give --to a file name")
    if options.format == "onnx":
        require_onnx()
    model, classes = load_trained(config, Precision.select("fp32", torch.device("cpu")))
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    terms = contract(settings, config.data.exif, normalises=options.with_normalisation)
    if options.format == "timm":
        copy_model(folder.model, to)
        write_card(to / "README.md", config, read_summary(folder.summary), classes)
        write_script(to / "preprocess.py", terms)
        sys.stdout.write(f"{to}, with README.md (a model card) and preprocess.py\n")
        return 0
    difference = export(
        model, to, options.format, with_normalisation=options.with_normalisation, exif=config.data.exif
    )
    script = to.with_name(f"{to.stem}_preprocess.py")
    write_script(script, terms, network=to.name if options.format == "onnx" else None)
    sys.stdout.write(
        f"{to}, largest difference from PyTorch {difference:.1e} of the largest logit\n"
        f"{script}, which turns a picture's file into its input\n"
    )
    if options.check:
        _check(config, model, open_exported(to, options.format), terms, options.check)
    return 0


def _check(config: Config, model: nn.Module, exported: Network, terms: Mapping[str, Any], count: int) -> None:
    """Try the written file on original files, where there are any, and say how it went."""
    from fastsemi.tools.export.check import from_files

    try:
        found = from_files(config, model, exported, terms, count)
    except UserError as error:
        sys.stdout.write(f"not tried on evaluation images: {error}\n")
        return
    sys.stdout.write(f"{found or 'not tried on evaluation images: they are packed as pixels'}\n")
