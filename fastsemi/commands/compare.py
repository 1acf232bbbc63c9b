"""The command `fastsemi compare`."""

from __future__ import annotations

from pathlib import Path

from fastsemi.commands.inputs import require_file
from fastsemi.commands.options import command_parser
from fastsemi.common.errors import UserError
from fastsemi.run.folder import RunFolder


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi compare` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "compare", "Runs side by side: the settings that differ, accuracies, seconds and images/s."
    )
    parser.add_argument("run", nargs="+", type=Path, help="run directories, two or more")
    parser.add_argument("--csv", type=Path, help="write the table to this file too")
    parser.add_argument(
        "--paired",
        action="store_true",
        help="run the networks over the evaluation images, and test each against the first",
    )
    options = parser.parse_args(arguments)
    if len(options.run) < 2:
        raise UserError(f"{options.run[0]} is one run, and there is nothing to compare it with; give another")
    for run in options.run:
        RunFolder(run).require_run()
        if options.paired:
            RunFolder(run).require_model()
    if options.csv is not None:
        require_file("--csv", options.csv)
    from fastsemi.common.progress import QuietConsole
    from fastsemi.tools.compare import notes, open_runs, paired, table, write_csv

    console = QuietConsole()
    runs = open_runs(options.run)
    console.print(table(runs))
    for line in notes(runs):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if options.csv is not None:
        write_csv(runs, options.csv)
    for run, found in paired(runs) if options.paired else ():
        console.print(
            f"{run.path} against {runs[0].path}: {found.points:+.1f} points on {found.images:,} images, "
            f"{found.only_second} right where the other is wrong and {found.only_first} the other way round, "
            f"p {found.p:.2g} (McNemar's exact test)",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return 0
