"""Reads a command's own options and its overrides of the configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastsemi.commands.help import EXAMPLES, Formatter, all_keys, key_overview
from fastsemi.common.errors import UserError
from fastsemi.common.telling import be_quiet
from fastsemi.run.folder import RunFolder

if TYPE_CHECKING:
    from fastsemi.run.config import Config


class _Silence(argparse.Action):
    def __call__(self, *_: object) -> None:
        be_quiet()


class Parser(argparse.ArgumentParser):
    """Reports wrong options as every other wrong input, and shows an example with its help.

    Args:
        command: The words behind `fastsemi`.
        purpose: What it does, in a sentence.
    """

    def __init__(self, command: str, purpose: str):
        super().__init__(
            f"fastsemi {command}", description=purpose, formatter_class=Formatter, allow_abbrev=False
        )
        self._command = command
        self.add_argument(
            "--quiet",
            action=_Silence,
            nargs=0,
            default=argparse.SUPPRESS,  # it is no option of the command
            help="print results and warnings, and no progress",
        )

    def format_help(self) -> str:
        """Usage in a line, purpose, options, an example."""
        words = [str(action.metavar or action.dest).upper() for action in self._get_positional_actions()]
        keys = ["[--KEY VALUE ...]"] if self.takes("--config", None) is not None else []
        self.usage = " ".join([self.prog, *words, "[OPTION ...]", *keys])
        return f"{super().format_help()}\nexample: {EXAMPLES[self._command]}\n"

    def error(self, message: str) -> NoReturn:
        """Raise what is wrong with an option.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{message}; {self.prog} --help lists the options")

    def takes(self, word: str, after: str | None) -> int | None:
        """How many values follow an option of this parser, None where it has no such option.

        Args:
            word: The option.
            after: The word behind it, None for none; an option that may stand alone takes no other option.
        """
        action = self._option_string_actions.get(word)
        if action is None:
            return None
        if action.nargs == "?":
            return int(after is not None and not after.startswith("--"))
        return int(action.nargs != 0)


def command_parser(command: str, description: str) -> Parser:
    """The parser of a command's own options."""
    return Parser(command, description)


def add_size_options(parser: argparse.ArgumentParser) -> None:
    """Options for data that is not on this machine."""
    parser.add_argument("--train_images", type=int, help="training images, where data.root is not here")
    parser.add_argument("--classes", type=int, help="classes, where data.root is not here")
    parser.add_argument("--unlabelled_images", type=int, help="the same for data.unlabeled")


def split(parser: Parser, arguments: list[str]) -> tuple[list[str], list[str]]:
    """Separate a command's own arguments from overrides of the configuration, `--KEY VALUE` or `--KEY=VALUE`.

    An unknown option counts as an override: the configuration names the nearest key.
    """
    own: list[str] = []
    overrides: list[str] = []
    words = list(arguments)
    while words:
        word = words.pop(0)
        option, equals, _ = word.partition("=")
        if not word.startswith("--"):
            own.append(word)
            continue
        values = parser.takes(option, words[0] if words else None)
        part = overrides if values is None else own
        count = 0 if equals else 1 if values is None else values
        part += [word, *words[:count]]
        del words[:count]
    return own, overrides


def _value(overrides: list[str], option: str) -> str | None:
    for word, after in zip(overrides, [*overrides, ""][1:], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def configure(parser: Parser, arguments: list[str]) -> tuple[Any, Config | None]:
    """Read a command's own options and the configuration.

    Without `--config`, `--output RUN` alone means the configuration that the run was made with.

    Returns:
        The options, among them the keys `by_hand` (of `fastsemi.run.config.by_hand`), and the configuration;
        None for it when it was only to be printed.
    """
    from fastsemi.run import config as configuration

    parser.add_argument("--config", type=Path, action="append", default=[], help="preset; a later one wins")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration")
    parser.add_argument("--help-all", action="store_true", help="show this help with all keys, and exit")
    if "--help-all" in arguments:
        sys.stdout.write(f"{parser.format_help()}\nconfiguration:\n{all_keys()}")
        return None, None
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(f"{parser.format_help()}\n{key_overview()}")
        return None, None
    rest, overrides = split(parser, arguments)
    options = parser.parse_intermixed_args(rest)  # predict a.png --top 2 b.png
    files, output = options.config, _value(overrides, "--output")
    if output == "":  # of a shell's variable that is not set, and would be the working directory
        raise UserError("--output is empty; name the run directory")
    if not files and output is not None:
        saved = RunFolder(Path(output)).config
        files = [saved] if saved.is_file() else []
    config = configuration.load(files, overrides)
    options.by_hand = configuration.by_hand(files, overrides)
    if options.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        return options, None
    return options, config
