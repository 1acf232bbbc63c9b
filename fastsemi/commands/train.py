"""The commands `fastsemi train`, `pretrain`, `finetune` and `semi`."""

from __future__ import annotations

import logging
import sys
import time
from argparse import Namespace
from collections.abc import Sequence, Set
from typing import TYPE_CHECKING, Any

from fastsemi.commands.inputs import require_inputs
from fastsemi.commands.options import add_size_options, command_parser, configure
from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.seconds import read_seconds
from fastsemi.parallel.launch import launched, one_report, speaks
from fastsemi.stages.names import STAGES, StageName

if TYPE_CHECKING:
    from rich.console import Console

    from fastsemi.run.config import Config
    from fastsemi.tools.budget.budget import Budget


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi train`, or one stage alone, with the words that follow; returns the exit code."""
    begun = time.monotonic()
    stage = next((name for name in STAGES if name == command), None)
    what = f"Run stage {stage} alone." if stage else "Run all stages, skipping finished ones."

    parser = command_parser(command, what)
    parser.add_argument("--dry_run", action="store_true", help="build all on the meta device, train nothing")
    parser.add_argument(
        "--budget", type=_time, help="how long the command may take: '90 s', '10 minutes', '1 h 30 min'"
    )
    add_size_options(parser)
    with one_report():
        options, config = configure(parser, arguments)
        if config is None:
            return 0
        if options.budget is not None and options.dry_run:
            raise UserError("--dry_run trains nothing, and --budget is for training; leave one of them out")
        stages = [stage] if stage else list(config.stages)
        # Of several processes one may lack what the others have: the run itself tells them all.
        if not options.dry_run and not launched():
            require_inputs(config, stages)
    if options.dry_run:
        return _dry_run(config, stages, options)
    from fastsemi.tools.budget.budget import Budget

    budget = None if options.budget is None else Budget(options.budget, begun)
    try:
        train_stages(config, stages, budget, by_hand=options.by_hand)
    except Interrupted as stop:
        if stop.alone or speaks():
            sys.stderr.write(f"fastsemi: {stop}; the same command resumes there\n")
        return stop.exit_code
    return 0


def train_stages(
    config: Config,
    stages: Sequence[StageName],
    budget: Budget | None = None,
    *,
    by_hand: Set[str] | None = None,
) -> None:
    """Train stages in all processes; print what they are worth, and write the page about the run.

    Args:
        config: The run.
        stages: Those that are to be finished afterwards.
        budget: Chooses how long they are.
        by_hand: Keys of batches that stay as they are, as of `fit_batches`; by default all.

    Raises:
        Interrupted: A signal asked to stop; the same call resumes.
    """
    from fastsemi.common.progress import Progress, QuietConsole
    from fastsemi.parallel import processes
    from fastsemi.run.run import Run
    from fastsemi.run.selected import all_labels_line
    from fastsemi.run.summary import WIDE, summary_table, verdict

    stopped = None
    with processes.session(config.distributed, processes.local_device(config.device)):
        is_main = processes.is_main()
        console = QuietConsole(quiet=not is_main)
        run = Run(config, Progress(console), by_hand)
        try:
            summary = run.train(stages, budget)
        except Interrupted as stop:
            if budget and is_main:
                budget.end(run.folder)
            if stop.alone:
                raise  # the others are not waited for
            stopped = stop
    if stopped:
        raise stopped
    console.print(summary_table(summary, wide=console.width >= WIDE))
    for said in (verdict(summary), all_labels_line(run.config, summary)):
        if said:
            console.print(said, highlight=False, markup=False, soft_wrap=True)
    for path in summary.get("skipped_images", []):
        console.print(f"skipped broken image {path}", highlight=False, markup=False)
    if is_main:
        _report(run.config, console)
        if budget:
            console.print(budget.end(run.folder), highlight=False, markup=False, soft_wrap=True)


def _time(text: str) -> str:
    """A time, refused here if it is none: words behind it, without quotes, would be named first."""
    read_seconds(text)
    return text


def _report(config: Config, console: Console) -> None:
    """Write the page about the run, whose weights and figures are safe by now."""
    from fastsemi.run.folder import RunFolder
    from fastsemi.run.mirror import copy

    logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING)  # which engine runs has been said
    try:
        from fastsemi.tools.report.page import write_report

        text = f"report: {write_report(config, evaluate=False)}"
    except Exception as error:  # whatever a library for drawing raises: it must not fail the run
        reason = " ".join(str(error).split()) or type(error).__name__
        text = f"report: not written ({reason}); `fastsemi report --output {config.output}` tries again"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    if url := config.train.mirror:
        copy(url, RunFolder(config.output))


def _dry_run(config: Config, stages: Any, options: Namespace) -> int:
    from fastsemi.common.progress import QuietConsole
    from fastsemi.tools.estimate.dry_run import dry_run, show

    show(*dry_run(config, stages, options, options.by_hand), QuietConsole())
    return 0
