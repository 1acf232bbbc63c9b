"""The command `fastsemi replay`."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsemi.commands.inputs import require_file, require_inputs
from fastsemi.commands.options import command_parser, configure, split
from fastsemi.common.printable import printable
from fastsemi.run.folder import RunFolder
from fastsemi.stages.names import STAGES


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi replay` with the words that follow it; returns the exit code."""
    parser = command_parser("replay", "List the images of a step of a run, and draw their views as a PNG.")
    parser.add_argument("run", type=Path, help="the run directory")
    parser.add_argument("step", type=int, help="which step of the stage, from 0")
    parser.add_argument("--stage", choices=STAGES, help="which stage; the last one by default")
    parser.add_argument("--micro", type=int, help="which micro-batch; all are listed by default, one drawn")
    parser.add_argument("--count", type=int, default=8, help="images to draw of each role")
    parser.add_argument("--png", type=Path, default=Path("replay.png"), help="file to write")
    if not {"--help", "-h"} & set(arguments):
        run = parser.parse_known_args(split(parser, arguments)[0])[0].run
        RunFolder(run).require_run()
        arguments = [*arguments, "--output", str(run)]
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    stage = options.stage or config.stages[-1]
    require_inputs(config, [stage])
    require_file("--png", options.png, ".png")
    from fastsemi.tools.replay import draw, replay

    replayed = replay(config, stage, options.step, micro=options.micro, count=options.count)
    for image in replayed.images:
        sys.stdout.write(f"{image.role}\t{image.micro}\t{printable(image.name)}\n")
    draw(replayed, options.png)
    sys.stdout.write(f"{options.png}\n")
    return 0
