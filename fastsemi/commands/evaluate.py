"""The command `fastsemi evaluate`."""

from __future__ import annotations

import sys

from fastsemi.errors import UserError
from fastsemi.options import command_parser, configure


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi evaluate` with the words that follow it; returns the exit code."""
    parser = command_parser("evaluate", "Accuracy of a run's model on the evaluation images.")
    _, config = configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.data import Data
    from fastsemi.evaluate import evaluate
    from fastsemi.precision import Precision, select_device
    from fastsemi.predict import load_trained
    from fastsemi.views import Views

    device = select_device(config.device)
    model, names = load_trained(config, device)
    data = Data(config.data, config.loader, device=device)
    try:
        if names != data.classes:
            raise UserError(
                f"the model of {config.output} knows other classes than {data.config.root} "
                f"({len(names)} and {len(data.classes)}); give the data it was trained for"
            )
        precision = Precision.select(config.precision, device)
        scores = evaluate(
            {"model": model}, data, Views(config.data, device), precision, batch=config.eval_batch
        )
    finally:
        data.close()
    score = scores["model"]
    sys.stdout.write(f"top-1 {score.top1:.2f} %, top-5 {score.top5:.2f} %, {score.images} images\n")
    return 0
