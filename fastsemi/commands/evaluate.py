"""The command `fastsemi evaluate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastsemi.options import command_parser, configure

if TYPE_CHECKING:
    from fastsemi.config import Config
    from fastsemi.evaluate import Accuracy


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi evaluate` with the words that follow it; returns the exit code."""
    from fastsemi import distributed

    parser = command_parser("evaluate", "Accuracy of a run's model on the evaluation images.")
    with distributed.one_report():
        _, config = configure(parser, arguments)
    if config is None:
        return 0
    with distributed.session(config.distributed, distributed.local_device(config.device)):
        score = _evaluate(config)
        if distributed.is_main():
            sys.stdout.write(f"top-1 {score.top1:.2f} %, top-5 {score.top5:.2f} %, {score.images} images\n")
    return 0


def _evaluate(config: Config) -> Accuracy:
    """The accuracy of a finished run; its images are dealt out to the processes."""
    from fastsemi.broken import share_broken
    from fastsemi.evaluate import evaluate
    from fastsemi.predict import trained_run

    with trained_run(config) as run:
        models, batch = {"model": run.model}, config.eval_batch
        scores = evaluate(models, run.data, run.views, run.precision, batch=batch)
        share_broken(run.data.bad)
    return scores["model"]
