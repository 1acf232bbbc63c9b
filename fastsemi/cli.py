"""The `fastsemi` command."""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from fastsemi import __version__
from fastsemi.errors import UserError

USAGE = """usage: fastsemi COMMAND --config FILE [--KEY VALUE ...]

commands:
  train      the stages of a configuration in a row, skipping finished ones
  pretrain   only the self-supervised stage (MAE)
  finetune   only the supervised stage
  semi       only the semi-supervised stage
  evaluate   accuracy of a run's model on the evaluation images
  predict    classify a folder of images into a CSV
  views      draw weak, strong and mixed views with pseudo labels
  data       write a data set as a folder of images: fastsemi data digits OUT

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
    except KeyboardInterrupt:
        sys.stderr.write("fastsemi: interrupted; the same command resumes from the last checkpoint\n")
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _dispatch(command: str, arguments: list[str]) -> int:
    commands: dict[str, Callable[[list[str]], int]] = {
        "train": lambda rest: _train(None, rest),
        "pretrain": lambda rest: _train("pretrain", rest),
        "finetune": lambda rest: _train("finetune", rest),
        "semi": lambda rest: _train("semi", rest),
        "evaluate": _evaluate,
        "predict": _predict,
        "views": _views,
        "data": _data,
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
    _, config = _configure(_parser(command, what), arguments)
    if config is None:
        return 0
    from fastsemi.progress import Progress
    from fastsemi.run import Run
    from fastsemi.summary import summary_table
    from fastsemi.trainer import Interrupted

    console = Console()
    run = Run(config, Progress(console))
    try:
        summary = run.train([stage] if stage else list(config.stages))  # type: ignore[list-item]
    except Interrupted as stop:
        sys.stderr.write(f"fastsemi: {stop}; the same command resumes there\n")
        return 130
    console.print(summary_table(summary))
    for path in summary.get("skipped_images", []):
        console.print(f"skipped broken image {path}", highlight=False)
    return 0


def _evaluate(arguments: list[str]) -> int:
    parser = _parser("evaluate", "Accuracy of a run's model on the evaluation images.")
    _, config = _configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.data import Data
    from fastsemi.evaluate import evaluate
    from fastsemi.precision import Precision, select_device
    from fastsemi.predict import load_trained
    from fastsemi.views import Views

    device = select_device(config.device)
    model, _ = load_trained(config, device)
    data = Data(config.data, config.loader)
    try:
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
    parser = _parser("predict", "Classify a folder of images into a CSV of path, class and confidence.")
    parser.add_argument("folder", type=Path, help="folder of images, sub-folders included")
    parser.add_argument("--csv", type=Path, default=Path("predictions.csv"), help="file to write")
    options, config = _configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.predict import predict, write_csv

    count = write_csv(predict(config, options.folder), options.csv)
    sys.stdout.write(f"{count} predictions in {options.csv}\n")
    return 0


def _views(arguments: list[str]) -> int:
    parser = _parser("views", "Draw weak, strong and mixed views with pseudo labels as a PNG.")
    parser.add_argument("--png", type=Path, default=Path("views.png"), help="file to write")
    parser.add_argument("--count", type=int, default=8, help="images to draw")
    parser.add_argument("--step", type=int, default=0, help="which batch of the semi stage")
    options, config = _configure(parser, arguments)
    if config is None:
        return 0
    from fastsemi.grid import draw_views

    draw_views(config, options.png, count=options.count, step=options.step)
    sys.stdout.write(f"{options.png}\n")
    return 0


def _data(arguments: list[str]) -> int:
    from fastsemi import datasets

    writers = {"digits": datasets.write_digits, "fashion-mnist": datasets.write_fashion_mnist}
    parser = argparse.ArgumentParser("fastsemi data", description="Write a data set as folders of images.")
    parser.add_argument("name", choices=writers, help="which data set")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    writers[options.name](options.out)
    sys.stdout.write(f"{options.out}\n")
    return 0


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(f"fastsemi {command}", description=description, allow_abbrev=False)


def _configure(parser: argparse.ArgumentParser, arguments: list[str]):  # type: ignore[no-untyped-def]
    """Read a command's own options and the configuration.

    Without `--config`, `--output RUN` alone means the configuration that the run was made with.

    Returns:
        The options and the configuration; None for it when it was only to be printed.
    """
    from fastsemi import config as configuration

    parser.add_argument("--config", type=Path, action="append", default=[], help="preset; a later one wins")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration")
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(parser.format_help() + "\nconfiguration:\n")
        sys.stdout.write(configuration.make_parser().format_help().split("\n\n", 1)[-1])
        return None, None
    options, overrides = parser.parse_known_args(arguments)
    files = options.config
    if not files and "--output" in overrides[:-1]:
        saved = Path(overrides[overrides.index("--output") + 1]) / "config.yaml"
        files = [saved] if saved.exists() else []
    config = configuration.load(files, overrides)
    if options.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        return options, None
    return options, config


if __name__ == "__main__":
    sys.exit(main())
