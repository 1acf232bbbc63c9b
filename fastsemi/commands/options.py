"""Reads a command's own options and its overrides of the configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from fastsemi.common.errors import UserError
from fastsemi.run.folder import RunFolder

if TYPE_CHECKING:
    from fastsemi.run.config import Config


class Parser(argparse.ArgumentParser):
    """Reports wrong options as every other wrong input."""

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
    return Parser(f"fastsemi {command}", description=description, allow_abbrev=False)


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
        The options and the configuration; None for it when it was only to be printed.
    """
    from fastsemi.run import config as configuration

    parser.add_argument("--config", type=Path, action="append", default=[], help="preset; a later one wins")
    parser.add_argument("--print_config", action="store_true", help="print the resolved configuration")
    if "--help" in arguments or "-h" in arguments:
        sys.stdout.write(parser.format_help() + "\nconfiguration:\n")
        sys.stdout.write(configuration.make_parser().format_help().split("\n\n", 1)[-1])
        return None, None
    rest, overrides = split(parser, arguments)
    options = parser.parse_args(rest)
    files = options.config
    if not files:
        saved = RunFolder(Path(_value(overrides, "--output") or "")).config
        files = [saved] if saved.is_file() else []
    config = configuration.load(files, overrides)
    if options.print_config:
        sys.stdout.write(configuration.to_yaml(config))
        return options, None
    return options, config
