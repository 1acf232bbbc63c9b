"""The command `fastsemi predict`."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsemi.options import command_parser, configure


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi predict` with the words that follow it; returns the exit code."""
    parser = command_parser("predict", "Classify images into a CSV of path, class and confidence.")
    parser.add_argument(
        "images",
        help="folder of images, sub-folders included; or .tar, .beton or .parquet files, a pattern of them",
    )
    parser.add_argument("--csv", type=Path, default=Path("predictions.csv"), help="file to write")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.predict import predict, write_csv

    count = write_csv(predict(config, options.images), options.csv)
    sys.stdout.write(f"{count} predictions in {options.csv}\n")
    return 0
