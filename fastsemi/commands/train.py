"""The commands `fastsemi train`, `pretrain`, `finetune` and `semi`."""

from __future__ import annotations

import sys

from fastsemi.options import command_parser, configure


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi train`, or one stage alone, with the words that follow; returns the exit code."""
    stage = None if command == "train" else command
    what = f"Run stage {stage} alone." if stage else "Run all stages, skipping finished ones."
    _, config = configure(command_parser(command, what), arguments)
    if config is None:
        return 0
    from fastsemi.progress import Progress, QuietConsole
    from fastsemi.run import Run
    from fastsemi.signals import Interrupted
    from fastsemi.summary import summary_table

    console = QuietConsole()
    run = Run(config, Progress(console))
    try:
        summary = run.train([stage] if stage else list(config.stages))  # type: ignore[list-item]
    except Interrupted as stop:
        sys.stderr.write(f"fastsemi: {stop}; the same command resumes there\n")
        return 130
    console.print(summary_table(summary))
    for path in summary.get("skipped_images", []):
        console.print(f"skipped broken image {path}", highlight=False, markup=False)
    return 0
