"""The command `fastsemi report`."""

from __future__ import annotations

import sys
from argparse import BooleanOptionalAction

from fastsemi.commands.options import command_parser, configure
from fastsemi.run.folder import RunFolder


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi report` with the words that follow it; returns the exit code."""
    parser = command_parser("report", "Write report.html, a page about a run, into its directory.")
    parser.add_argument(
        "--evaluate",
        action=BooleanOptionalAction,
        default=True,
        help="run the network over the evaluation images, for accuracy and confusions of each class",
    )
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    RunFolder(config.output).require_run()
    from fastsemi.tools.report.page import write_report

    sys.stdout.write(f"{write_report(config, evaluate=options.evaluate)}\n")
    return 0
