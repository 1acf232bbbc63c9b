"""The command `fastsemi evaluate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from fastsemi.commands.inputs import require_file
from fastsemi.commands.options import command_parser, configure
from fastsemi.parallel.launch import one_report
from fastsemi.run.folder import RunFolder

SHOWN_CLASSES = 20  # more are shown when asked for


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi evaluate` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "evaluate", "Accuracy of a run's model on the evaluation images, and what its confidences are worth."
    )
    parser.add_argument(
        "--per_class",
        action="store_true",
        help=f"recall, precision and F1 of each class also where there are more than {SHOWN_CLASSES}",
    )
    parser.add_argument("--json", type=Path, help="file to write all figures to")
    with one_report():
        options, config = configure(parser, arguments)
        if config is None:
            return 0
        RunFolder(config.output).require_model()
        if options.json is not None:
            require_file("--json", options.json)
    from fastsemi.common.files import replacing
    from fastsemi.common.progress import QuietConsole
    from fastsemi.parallel import processes
    from fastsemi.run.evaluation import evaluate_run, say_confidences, table_of_classes

    with processes.session(config.distributed, processes.local_device(config.device)):
        found = evaluate_run(config)
    if found is None:
        return 0
    sys.stdout.write(
        f"top-1 {found.top1:.2f} %, balanced {found.balanced:.2f} %, top-5 {found.top5:.2f} %, "
        f"{found.images} {found.evaluated_on}\n{say_confidences(found)}\n"
    )
    if options.per_class or len(found.by_class) <= SHOWN_CLASSES:
        QuietConsole().print(table_of_classes(found.by_class))
    if options.json:
        with replacing(options.json) as file:
            file.write(json.dumps(asdict(found), indent=2) + "\n")
    return 0
