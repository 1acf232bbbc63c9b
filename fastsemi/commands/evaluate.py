"""The command `fastsemi evaluate`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from fastsemi.errors import UserError
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
    from fastsemi import distributed
    from fastsemi.broken import share_broken
    from fastsemi.data import Data
    from fastsemi.evaluate import evaluate
    from fastsemi.precision import Precision, select_device
    from fastsemi.predict import load_trained
    from fastsemi.views import Views

    device = select_device(distributed.local_device(config.device))
    precision = Precision.select(config.precision, device)
    model, names = load_trained(config, precision)
    data = Data(config.data, config.loader, device=device)
    try:
        with distributed.one_per_node_first():  # which indexes the images
            images = data.val
        if names != data.classes:
            raise UserError(
                f"the model of {config.output} knows other classes than {data.config.root} "
                f"({len(names)} and {len(data.classes)}); give the data it was trained for"
            )
        if not len(images.ids):
            raise UserError(f"{images.index.root} holds no images to evaluate on; add some")
        scores = evaluate(
            {"model": model}, data, Views(config.data, device), precision, batch=config.eval_batch
        )
        share_broken(data.bad)
    finally:
        data.close()
    return scores["model"]
