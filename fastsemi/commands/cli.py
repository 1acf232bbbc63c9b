"""The `fastsemi` command."""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

from fastsemi.commands.help import explain, explain_section, overview
from fastsemi.common.errors import UserError
from fastsemi.common.leaving import READER_LEFT, leave, reader_left, ready_streams
from fastsemi.common.printable import PrintableFormatter, printable
from fastsemi.common.telling import be_quiet
from fastsemi.common.threads import let_threads_sleep
from fastsemi.common.version import __version__

let_threads_sleep()

# Each command: the module of `fastsemi.commands` whose `main(command, arguments)` runs it, and what it does.
COMMANDS = {
    "init": ("init", "look at a folder of pictures and write a configuration for it"),
    "train": ("train", "the stages of a configuration in a row, skipping finished ones"),
    "pretrain": ("train", "only the self-supervised stage (MAE)"),
    "finetune": ("train", "only the supervised stage"),
    "semi": ("train", "only the semi-supervised stage"),
    "probe": ("probe", "what simple classifiers get from the same labels, in seconds"),
    "evaluate": ("evaluate", "accuracy of a run's model, and what its confidences are worth"),
    "predict": ("predict", "classify images into a CSV, JSON lines or Parquet"),
    "export": ("export", "write a run's model as ONNX, as a torch.export program or as a timm folder"),
    "report": ("report", "write report.html, a page about a run"),
    "study": ("study", "a table of the paper as a grid of runs over seeds"),
    "estimate": ("estimate", "steps, memory and hours of a run before it is started"),
    "views": ("views", "draw weak, strong and mixed views with pseudo labels"),
    "suggest": ("suggest", "which images to label next, as a table to fill in and a picture"),
    "compare": ("compare", "runs side by side: settings that differ, and what came of them"),
    "completion": ("completion", "a script that completes commands, options and keys: bash, zsh or fish"),
    "help": ("help", "explain a command, a key or a section of keys: fastsemi help semi.threshold"),
    "replay": ("replay", "the images of a step, and their views: fastsemi replay RUN STEP"),
    "profile": ("profile", "where the time of a job goes, and what limits it"),
    "tune": ("tune", "find the fastest loader settings: fastsemi tune loader"),
    "doctor": ("doctor", "what works on this machine, and how to mend what does not"),
    "data": (
        "data",
        "write a data set: fastsemi data digits OUT, or pack one: fastsemi data beton OUT --images DIR",
    ),
}

# Modules whose work the processes of torchrun share.
SHARED = ("train", "evaluate", "predict")

_said: set[str] = set()  # by this command


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit code: 0, 2 for wrong input or a failure, 128 and a signal's number when it interrupted, that of
        SIGPIPE where nobody reads what is printed any more.
    """
    ready_streams()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    logging.basicConfig(level=logging.WARNING, handlers=[_log_handler()])
    be_quiet(False)  # which engine runs is said, and why
    _said.clear()
    if not sys.warnoptions:  # of libraries; fastsemi itself logs what it warns of
        warnings.simplefilter("ignore")
    try:
        return _dispatch(*arguments)
    except UserError as error:
        sys.stderr.write(f"fastsemi: error: {printable(' '.join(str(error).split()))}\n")
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and reader_left():
            return READER_LEFT
        where = f" {printable(str(error.filename))}" if error.filename else ""
        reason = error.strerror or str(error)
        sys.stderr.write(
            f"fastsemi: error: cannot use{where}: {reason}; check the path, its rights and the disk\n"
        )
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("fastsemi: interrupted; the same command resumes from the last checkpoint\n")
        return 130


def _log_handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(PrintableFormatter("fastsemi: %(message)s"))
    handler.addFilter(_is_ours)
    handler.addFilter(_is_new)
    return handler


def _is_ours(record: logging.LogRecord) -> bool:
    """Whether fastsemi logs this, or a library an error."""
    return record.name.partition(".")[0] == "fastsemi" or record.levelno >= logging.ERROR


def _is_new(record: logging.LogRecord) -> bool:
    """Whether this is a warning, or has not been said: a command may open the same images several times."""
    if record.levelno > logging.INFO:
        return True
    text = record.getMessage()
    new = text not in _said
    _said.add(text)
    return new


def _dispatch(command: str = "--help", *arguments: str) -> int:
    if command == "help" and len(arguments) > 1:
        raise UserError(f"help explains one thing, and {len(arguments)} are given; give one of them")
    if command == "help" and arguments and arguments[0] in COMMANDS:
        with suppress(SystemExit):  # with which argparse ends its help
            _dispatch(arguments[0], "--help")
        sys.stdout.write(explain_section(arguments[0]))
        return 0
    if command == "help" and arguments and arguments[0] not in ("-h", "--help"):
        sys.stdout.write(explain(arguments[0].lstrip("-")))
        return 0
    if command in ("-h", "--help") and arguments:
        return _dispatch("help", *arguments)
    if command in ("-h", "--help", "help"):
        sys.stdout.write(overview(COMMANDS))
        return 0
    if command == "--version" and arguments:
        raise UserError(f"--version stands alone, and {' '.join(arguments)} follows it; leave that out")
    if command == "--version":
        sys.stdout.write(f"fastsemi {__version__}\n")
        return 0
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else "fastsemi --help lists the commands"
        raise UserError(f"unknown command {command}; {hint}")
    name = COMMANDS[command][0]
    if name not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1" and "LOCAL_RANK" in os.environ:
        from fastsemi.parallel.launch import one_report

        with one_report():
            raise UserError(
                f"{command} runs in one process, and torchrun started {os.environ['WORLD_SIZE']}; run it "
                "without torchrun"
            )
    module = importlib.import_module(f"fastsemi.commands.{name}")
    return module.main(command, list(arguments))


def script() -> NoReturn:
    """The program `fastsemi`: the command line of this process, then its end."""
    try:
        code = main()
    except SystemExit as end:  # argparse has printed its help, or another process reports
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    leave(code)


if __name__ == "__main__":
    script()
