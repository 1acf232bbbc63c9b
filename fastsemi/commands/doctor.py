"""The command `fastsemi doctor`."""

from __future__ import annotations

import sys

from fastsemi.commands.options import command_parser, configure


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi doctor` with the words that follow it; returns 1 where a required part fails."""
    parser = command_parser(
        "doctor", "Check what works on this machine; with --config also the images of the configuration."
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.common.progress import QuietConsole
    from fastsemi.tools.doctor.diagnose import diagnose, show, to_json, works

    checks = list(diagnose(config, data=bool(options.config)))
    if options.json:
        sys.stdout.write(to_json(checks) + "\n")
    else:
        show(checks, QuietConsole())
    return 0 if works(checks) else 1
