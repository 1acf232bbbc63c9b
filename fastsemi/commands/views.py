"""The command `fastsemi views`."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsemi.commands.inputs import require_file, require_inputs
from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi views` with the words that follow it; returns the exit code."""
    parser = command_parser("views", "Draw weak, strong and mixed views with pseudo labels as a PNG.")
    parser.add_argument("--png", type=Path, default=Path("views.png"), help="file to write")
    parser.add_argument("--count", type=int, default=8, help="images to draw, at most")
    parser.add_argument("--step", type=int, default=0, help="which batch of the semi stage")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    require_inputs(config, config.stages)
    require_file("--png", options.png, ".png")
    if options.count < 1:
        raise UserError(f"--count {options.count} draws nothing; give 1 or more")
    from fastsemi.run.fit_batches import with_fitting_batches
    from fastsemi.tools.report.examples import draw_views

    config = with_fitting_batches(config, options.by_hand)
    draw_views(config, options.png, count=options.count, step=options.step)
    sys.stdout.write(f"{options.png}\n")
    return 0
