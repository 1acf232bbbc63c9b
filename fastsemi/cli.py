"""The `fastsemi` command."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from fastsemi import __version__
from fastsemi.data_command import data_command
from fastsemi.errors import UserError
from fastsemi.options import command_parser, configure

# Threads of PyTorch that spin while they wait take the cores from the decoding threads: on 2 cores the small
# ViT of the demo trained 1.2 times as fast with waiting threads asleep. Read when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

USAGE = """usage: fastsemi COMMAND --config FILE [--KEY VALUE ...]

commands:
  train      the stages of a configuration in a row, skipping finished ones
  pretrain   only the self-supervised stage (MAE)
  finetune   only the supervised stage
  semi       only the semi-supervised stage
  evaluate   accuracy of a run's model on the evaluation images
  predict    classify a folder of images into a CSV
  views      draw weak, strong and mixed views with pseudo labels
  data       write a data set: fastsemi data digits OUT, or pack one: fastsemi data beton OUT --images DIR

fastsemi COMMAND --help prints the options of a command. Every KEY of the configuration can be
overridden, for example --semi.threshold 0.5; --print_config prints the resolved configuration.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 2 for wrong input, 130 when interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(format="fastsemi: %(message)s", level=logging.WARNING)
    logging.getLogger("fastsemi.loaders").setLevel(logging.INFO)  # which engine runs, and why
    warnings.filterwarnings("ignore", module="torch.*")
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(USAGE)
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"fastsemi {__version__}\n")
        return 0
    try:
        return _dispatch(arguments[0], arguments[1:])
    except UserError as error:
        sys.stderr.write(f"fastsemi: error: {' '.join(str(error).split())}\n")
        return 2
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        reason = error.strerror or str(error)
        sys.stderr.write(
            f"fastsemi: error: cannot use{where}: {reason}; check the path, its rights and the disk\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("fastsemi: interrupted; the same command resumes from the last checkpoint\n")
        return 130


def _dispatch(command: str, arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": lambda rest: _train(None, rest),
        "pretrain": lambda rest: _train("pretrain", rest),
        "finetune": lambda rest: _train("finetune", rest),
        "semi": lambda rest: _train("semi", rest),
        "evaluate": _evaluate,
        "predict": _predict,
        "views": _views,
        "data": data_command,
    }
    if command not in commands:
        import difflib

        near = difflib.get_close_matches(command, commands, n=1)
        hint = f"did you mean {near[0]}?" if near else "fastsemi --help lists the commands"
        raise UserError(f"unknown command {command}; {hint}")
    return commands[command](arguments)


def _train(stage: str | None, arguments: list[str]) -> int:
    command = stage or "train"
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


def _evaluate(arguments: list[str]) -> int:
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
    data = Data(config.data, config.loader)
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


def _predict(arguments: list[str]) -> int:
    parser = command_parser("predict", "Classify images into a CSV of path, class and confidence.")
    parser.add_argument("folder", type=Path, help="folder of images, sub-folders included")
    parser.add_argument("--csv", type=Path, default=Path("predictions.csv"), help="file to write")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.predict import predict, write_csv

    count = write_csv(predict(config, options.folder), options.csv)
    sys.stdout.write(f"{count} predictions in {options.csv}\n")
    return 0


def _views(arguments: list[str]) -> int:
    parser = command_parser("views", "Draw weak, strong and mixed views with pseudo labels as a PNG.")
    parser.add_argument("--png", type=Path, default=Path("views.png"), help="file to write")
    parser.add_argument("--count", type=int, default=8, help="images to draw")
    parser.add_argument("--step", type=int, default=0, help="which batch of the semi stage")
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.grid import draw_views

    draw_views(config, options.png, count=options.count, step=options.step)
    sys.stdout.write(f"{options.png}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
