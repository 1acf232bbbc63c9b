"""Writes docs/commands.md from the help that the commands print.

    python scripts/commands_page.py

`tests/house/test_site.py` fails where the page says anything else.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest import mock

from fastsemi.commands.cli import COMMANDS, main
from fastsemi.commands.help import GROUPS, key_overview

PAGE = Path(__file__).parents[1] / "docs" / "commands.md"
HEAD = """# Commands

<!-- python scripts/commands_page.py writes this page -->

What `fastsemi COMMAND --help` prints. Every command with `[--KEY VALUE ...]` takes `--config FILE` and any
[key](#keys) of the [configuration](configuration.md).

"""
KEYS = """## Keys

As `--KEY VALUE`. `fastsemi help KEY` or `fastsemi help SECTION` explains them,
`fastsemi train --help-all` lists all.

"""


def page() -> str:
    """The page: a group a heading, a command below it, and the keys once."""
    once = mock.patch("fastsemi.commands.options.key_overview", str)  # not below every command
    with mock.patch.dict(os.environ, {"COLUMNS": "100"}), once:
        parts = [HEAD]
        for group, names in GROUPS.items():
            parts.append(f"## {group.capitalize()}\n\n")
            parts += [_section(words) for name in names for words in _pages(name)]
        return "".join([*parts, KEYS, _block(key_overview().partition("\n")[2])]).rstrip() + "\n"


def _pages(name: str) -> list[tuple[str, ...]]:
    """The words of a command, and of what has a help of its own below it."""
    return [(name,), ("data", "beton")] if name == "data" else [(name,)]


def _section(words: tuple[str, ...]) -> str:
    title = f"### fastsemi {' '.join(words)}\n\n"
    if words == ("help",):  # whose help is the overview of all commands
        return f"{title}Without a word: all commands. Else it will {COMMANDS['help'][1]}.\n\n"
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return title + _block(text.getvalue())


def _block(text: str) -> str:
    return f"```text\n{text.strip()}\n```\n\n"


if __name__ == "__main__":
    PAGE.write_text(page())
