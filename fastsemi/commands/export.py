"""The command `fastsemi export`."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError
from fastsemi.run.folder import RunFolder


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi export` with the words that follow it; returns the exit code."""
    parser = command_parser("export", "Write a run's model for other programs.")
    parser.add_argument(
        "--format",
        choices=("onnx", "pt2", "timm"),
        default="onnx",
        help="onnx, pt2 (torch.export), or timm: a copy of the folder model/",
    )
    parser.add_argument("--to", type=Path, help="file, or folder for timm; by default RUN/model.onnx or .pt2")
    parser.add_argument(
        "--with_normalisation",
        "--with-normalisation",
        action="store_true",
        help="the file takes pixels in [0, 1] and applies mean and deviation itself",
    )
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    RunFolder(config.output).require_model()
    import torch

    from fastsemi.common.precision import Precision
    from fastsemi.models.export import copy_model, export, require_onnx
    from fastsemi.run.trained import load_trained

    to = options.to or config.output / f"model.{options.format}"
    if options.format == "timm":
        if options.to is None:
            raise UserError(
                f"{RunFolder(config.output).model} is the timm folder; give --to FOLDER to copy it"
            )
        if options.with_normalisation:
            raise UserError(
                "a timm folder holds mean and deviation as settings; leave out --with_normalisation"
            )
    elif to.is_dir():
        raise UserError(f"{to} is a folder; give --to a file name")
    if options.format == "onnx":
        require_onnx()
    model, _ = load_trained(config, Precision.select("fp32", torch.device("cpu")))
    if options.format == "timm":
        copy_model(RunFolder(config.output).model, to)
        sys.stdout.write(f"{to}\n")
        return 0
    difference = export(model, to, options.format, with_normalisation=options.with_normalisation)
    sys.stdout.write(f"{to}, largest difference from PyTorch {difference:.1e} of the largest logit\n")
    return 0
