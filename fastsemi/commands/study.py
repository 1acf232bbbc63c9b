"""The command `fastsemi study`."""

from __future__ import annotations

import sys
from pathlib import Path

from fastsemi.commands.options import command_parser, split
from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.telling import is_quiet


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi study` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "study",
        "Run a table of cells over seeds. Finished runs are skipped; --KEY VALUE overrides all cells.",
    )
    parser.add_argument("file", type=Path, help="study file, for example configs/studies/table3.yaml")
    parser.add_argument(
        "--config",
        type=Path,
        action="append",
        default=[],
        help="preset that takes the place of the study's own, to run it on other data; a later one wins",
    )
    parser.add_argument("--seeds", default="0", help="for example 0,1,2; they draw the labels too")
    parser.add_argument(
        "--only", action="append", default=[], metavar="AXIS=VALUE,...", help="run some values of an axis"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("runs/studies"), help="studies in one folder share runs"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--threads", type=int, default=0, help="threads of a run; 0 for cores / jobs")
    parser.add_argument("--devices", default="", help="devices dealt to the runs, for example cuda:0,cuda:1")
    parser.add_argument(
        "--list", action="store_true", help="show the cells and what has finished; run nothing"
    )
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(parser.format_help())
        return 0
    own, overrides = split(parser, arguments)
    options = parser.parse_args(own)
    if options.jobs < 1 or options.threads < 0:
        raise UserError("--jobs must be at least 1 and --threads 0 or more")
    seeds = _seeds(options.seeds)

    from fastsemi.tools.study.study_file import load_study

    study = load_study(options.file, configs=options.config, overrides=overrides, only=options.only)
    from fastsemi.common.progress import QuietConsole
    from fastsemi.tools.study.jobs import plan_study
    from fastsemi.tools.study.runner import Runner, RunnerOptions
    from fastsemi.tools.study.show import report_results, show_overview, show_progress

    console = QuietConsole()
    work = plan_study(study, seeds, options.output / "runs")
    show_overview(console, study, work)
    if options.list:
        show_progress(console, work)
        return 0
    devices = tuple(device for device in options.devices.split(",") if device)

    def say(text: str) -> None:
        if not is_quiet():
            console.print(text, highlight=False, markup=False, soft_wrap=True)

    runner = Runner(list(work.jobs.values()), RunnerOptions(options.jobs, options.threads, devices), say)
    stopped = None
    try:
        runner.run()
    except Interrupted as interrupted:
        stopped = interrupted
    report_results(console, study, work, options.output / study.name, runner.failed)
    if stopped:
        sys.stderr.write(f"fastsemi: {stopped}; the same command goes on there\n")
        return stopped.exit_code
    return 1 if runner.failed else 0


def _seeds(text: str) -> list[int]:
    try:
        seeds = [int(word) for word in text.split(",")]
    except ValueError:
        raise UserError(f"--seeds is {text!r}; give whole numbers such as 0,1,2") from None
    if len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"--seeds is {text!r}; give each once, 0 or more")
    return seeds
