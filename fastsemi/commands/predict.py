"""The command `fastsemi predict`."""

from __future__ import annotations

import collections
import sys
from pathlib import Path

from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError
from fastsemi.common.job import Job
from fastsemi.loaders.sources.named import named_images
from fastsemi.parallel.launch import one_report
from fastsemi.run.folder import RunFolder
from fastsemi.run.prediction_file import require_file, write_predictions


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi predict` with the words that follow it; returns the exit code."""
    parser = command_parser("predict", "Classify images into a CSV of path, class and confidence.")
    parser.add_argument(
        "images",
        nargs="+",
        help="images, folders with all below them, .tar, .beton, .parquet or .arrow files, patterns of any "
        "of these, URLs (s3://, ...); @LIST for the files that a list names, one a line or in "
        "the column path of a table",
    )
    parser.add_argument(
        "--to", type=Path, help="file to write: .csv, .jsonl or .parquet; by default predictions.csv"
    )
    parser.add_argument("--csv", type=Path, help="the same, a .csv whatever its ending")
    parser.add_argument("--top", type=int, default=1, help="classes of each image, the likeliest first")
    parser.add_argument(
        "--job",
        default="1/1",
        help="i/N: the i-th of N equal shares of the images; its file is called NAME-i-of-N",
    )
    with one_report():
        options, config = configure(parser, arguments)
        if config is None:
            return 0
        RunFolder(config.output).require_model()
        if options.to and options.csv:
            raise UserError("--to and --csv both name the file to write; give one of them")
        job = Job.parse(options.job)
        to = job.file(options.csv or options.to or Path("predictions.csv"))
        form = require_file(to, "csv" if options.csv else None)
        if options.top < 1:
            raise UserError(f"--top is {options.top}; it must be at least 1")
        parts = named_images(options.images)
    from fastsemi.parallel import processes
    from fastsemi.run.predict import Predictor, say_unreadable

    with processes.session(config.distributed, processes.local_device(config.device)):
        predictor = Predictor(config)
        classes = predictor.classes
        if options.top > len(classes):
            raise UserError(f"--top is {options.top}, and the model knows {len(classes)} classes; give less")
        rows = (batch.best(classes, options.top) for batch in predictor.classify(parts, job))
        if not processes.is_main():
            collections.deque(rows, maxlen=0)  # computes its images, whose rows rank 0 has
            return 0
        count = write_predictions(rows, to, form, options.top)
    if said := say_unreadable(predictor.unreadable):
        sys.stderr.write(f"fastsemi: {said}\n")
    sys.stdout.write(f"{count} predictions in {to}\n")
    return 0
