"""The command `fastsemi evaluate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastsemi.commands.options import command_parser, configure
from fastsemi.parallel.launch import one_report
from fastsemi.run.folder import RunFolder

if TYPE_CHECKING:
    from fastsemi.run.config import Config
    from fastsemi.training.evaluate import Accuracy


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi evaluate` with the words that follow it; returns the exit code."""
    parser = command_parser("evaluate", "Accuracy of a run's model on the evaluation images.")
    with one_report():
        _, config = configure(parser, arguments)
        if config is None:
            return 0
        RunFolder(config.output).require_model()
    from fastsemi.parallel import processes
    from fastsemi.run.selected import evaluated_on

    with processes.session(config.distributed, processes.local_device(config.device)):
        score = _evaluate(config)
        if processes.is_main():
            sys.stdout.write(
                f"top-1 {score.top1:.2f} %, balanced {score.balanced:.2f} %, top-5 {score.top5:.2f} %, "
                f"{score.images} {evaluated_on(config)}\n"
            )
    return 0


def _evaluate(config: Config) -> Accuracy:
    """The accuracy of a finished run; its images are dealt out to the processes."""
    from fastsemi.run.trained import trained_run
    from fastsemi.training.broken import share_broken
    from fastsemi.training.evaluate import evaluate

    with trained_run(config) as run:
        models, batch = {"model": run.model}, config.eval_batch
        scores = evaluate(models, run.data, run.views, run.precision, batch=batch)
        share_broken(run.data.bad)
    return scores["model"]
