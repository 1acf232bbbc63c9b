"""The `fastsemi` command."""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from fastsemi import __version__
from fastsemi.errors import UserError

# Threads of PyTorch that spin while they wait take the cores from the decoding threads: on 2 cores the small
# ViT of the demo trained 1.2 times as fast with waiting threads asleep. Read when PyTorch is first imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Options of commands that are no keys of the configuration.
_OWN_OPTIONS = {"config", "print_config", "csv", "png", "count", "step"}

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
    if arguments[:1] == ["beton"]:
        return _data_beton(arguments[1:])
    from fastsemi import datasets

    writers = {"digits": datasets.write_digits, "fashion-mnist": datasets.write_fashion_mnist}
    parser = _Parser(
        "fastsemi data",
        description="Write a data set as folders of images. To pack one: fastsemi data beton --help",
    )
    parser.add_argument("name", choices=writers, help="which data set")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    writers[options.name](options.out)
    sys.stdout.write(f"{options.out}\n")
    return 0


def _data_beton(arguments: list[str]) -> int:
    from fastsemi.loaders import beton
    from fastsemi.loaders.index import MAX_PIXELS
    from fastsemi.loaders.prefetch import BadImages
    from fastsemi.loaders.sources.select import open_source

    default = beton.Encoding()
    parser = _parser("data beton", "Pack images into a .beton, the file of the ffcv engine and of FFCV.")
    parser.add_argument("out", type=Path, help="file to write, NAME.beton")
    parser.add_argument("--images", required=True, help="folder, or whatever else data.train may name")
    parser.add_argument("--mode", default=default.mode, help="jpeg, or raw for pixels (nothing to decode)")
    parser.add_argument("--max_side", type=int, default=default.max_side, help="0 keeps all sizes")
    parser.add_argument("--quality", type=int, default=default.quality, help="of JPEGs encoded anew")
    parser.add_argument("--without_classes", action="store_true", help="the images have no classes")
    parser.add_argument("--max_bad", type=int, default=0, help="broken images to leave out at most")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="encoding threads")
    options = parser.parse_args(arguments)
    if options.out.suffix != ".beton":
        raise UserError(f"{options.out} does not end in .beton; add it, the name tells the kind of file")
    encoding = beton.Encoding(options.mode, options.max_side, options.quality)
    source = open_source(
        Path(), options.images, has_classes=not options.without_classes, max_pixels=MAX_PIXELS
    )
    count = beton.write_beton(
        options.out,
        source,
        source.index,
        encoding=encoding,
        max_pixels=MAX_PIXELS,
        threads=max(1, options.threads),
        bad=BadImages(options.max_bad),
    )
    sys.stdout.write(f"{count} images in {options.out}\n")
    return 0


class _Parser(argparse.ArgumentParser):
    """Reports wrong options as every other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help lists the options")


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    return _Parser(f"fastsemi {command}", description=description, allow_abbrev=False)


def _split(arguments: list[str], keys: set[str]) -> tuple[list[str], list[str]]:
    """Separate a command's own arguments from overrides of the configuration, `--KEY VALUE` or `--KEY=VALUE`.

    An option that is neither is left to the configuration, which names the nearest key.
    """
    own, overrides = [], []
    words = iter(arguments)
    for word in words:
        key, equals, _ = word[2:].partition("=")
        if word.startswith("--") and (key in keys or "." in key or not _OWN_OPTIONS & {key}):
            overrides += [word] if equals else [word, *itertools.islice(words, 1)]
        elif word.startswith("--") and not equals and key != "print_config":
            own += [word, *itertools.islice(words, 1)]
        else:
            own.append(word)
    return own, overrides


def _value(overrides: list[str], option: str) -> str | None:
    for word, after in zip(overrides, [*overrides[1:], ""], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


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
    rest, overrides = _split(arguments, set(configuration.known_keys()))
    options = parser.parse_args(rest)
    files = options.config
    if not files:
        saved = Path(_value(overrides, "--output") or "") / "config.yaml"
        files = [saved] if saved.is_file() else []
    config = configuration.load(files, overrides)
    if options.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        return options, None
    return options, config


if __name__ == "__main__":
    sys.exit(main())
