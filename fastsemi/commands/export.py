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
    if options.check < 0:
        raise UserError(f"--check is {options.check}; give a number of images, or 0 for none")
    RunFolder(config.output).require_model()
    from fastsemi.tools.export.export_run import export_run

    written = export_run(
        config,
        options.format,
        options.to,
        with_normalisation=options.with_normalisation,
        check=options.check,
    )
    sys.stdout.write("".join(f"{line}\n" for line in written.lines))
    return 0
