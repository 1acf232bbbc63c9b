"""The command `fastsemi predict`."""

from __future__ import annotations

import collections
import sys
from pathlib import Path

from fastsemi.commands.options import command_parser, configure
from fastsemi.parallel.launch import one_report
from fastsemi.run.folder import RunFolder


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi predict` with the words that follow it; returns the exit code."""
    parser = command_parser("predict", "Classify images into a CSV of path, class and confidence.")
    parser.add_argument(
        "images",
        help="folder of images, sub-folders included; or .tar, .beton or .parquet files, a pattern of them",
    )
    parser.add_argument("--csv", type=Path, default=Path("predictions.csv"), help="file to write")
    with one_report():
        options, config = configure(parser, arguments)
        if config is None:
            return 0
        RunFolder(config.output).require_model()
    from fastsemi.parallel import processes
    from fastsemi.run.trained import predict, write_csv

    with processes.session(config.distributed, processes.local_device(config.device)):
        rows = predict(config, options.images)
        if processes.is_main():
            count = write_csv(rows, options.csv)
            sys.stdout.write(f"{count} predictions in {options.csv}\n")
        else:
            collections.deque(rows, maxlen=0)  # computes its images, whose rows rank 0 has
    return 0
