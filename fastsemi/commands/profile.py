"""The command `fastsemi profile`."""

from __future__ import annotations

from pathlib import Path

from fastsemi.commands.inputs import require_file, require_inputs
from fastsemi.commands.options import command_parser, configure
from fastsemi.common.telling import tell
from fastsemi.stages.names import STAGES


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi profile` with the words that follow it; returns the exit code."""
    from fastsemi.common.errors import UserError

    parser = command_parser(
        "profile",
        "Run some steps of the real job, show where time goes and what limits it. Writes profile.json and "
        "profile.png into the output folder; nothing else there is touched.",
    )
    parser.add_argument("--stage", choices=STAGES, help="by default the last stage")
    parser.add_argument("--steps", type=int, default=30, help="steps to measure")
    parser.add_argument("--warmup", type=int, default=5, help="steps before these, which do not count")
    parser.add_argument("--trace", type=Path, help="write a Chrome trace of a few more steps to this file")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    require_inputs(config, config.stages)
    for name, least in (("steps", 2), ("warmup", 0)):
        if getattr(options, name) < least:
            raise UserError(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    if options.trace is not None:
        require_file("--trace", options.trace)
    from fastsemi.common.progress import QuietConsole
    from fastsemi.run.fit_batches import with_fitting_batches
    from fastsemi.tools.profile.output import show, write
    from fastsemi.tools.profile.profile import profile

    console = QuietConsole()
    result = profile(
        with_fitting_batches(config, options.by_hand),
        options.stage or config.stages[-1],
        steps=options.steps,
        warmup=options.warmup,
        trace=options.trace,
        say=lambda text: tell(f"measuring {text}"),
    )
    show(result, console)
    for path in (*write(result, config.output), *([options.trace] if options.trace else [])):
        console.print(str(path), highlight=False, soft_wrap=True)
    return 0
