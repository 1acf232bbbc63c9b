"""The command `fastsemi completion`: a script for a shell that completes commands, options and keys."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import re
import shlex
import sys

from fastsemi.commands.cli import COMMANDS
from fastsemi.commands.options import command_parser

_BASH = """\
_fastsemi() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} words
    local commands="{commands}"
    local keys="{keys}"
    COMPREPLY=()
    if (( COMP_CWORD == 1 )); then
        COMPREPLY=($(compgen -W "$commands --help --version" -- "$word"))
        return
    fi
    case ${{COMP_WORDS[1]}} in
        help) words="$commands ${{keys//--/}}" ;;
        completion) words="bash zsh fish --help" ;;
{cases}
    esac
    if [[ $word == -* || ${{COMP_WORDS[1]}} == @(help|completion) ]]; then
        COMPREPLY=($(compgen -W "$words" -- "$word"))
    fi
}}
complete -o default -F _fastsemi fastsemi
"""

_ZSH = """\
autoload -Uz compinit bashcompinit
(( $+functions[compdef] )) || compinit
bashcompinit
"""


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi completion` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "completion",
        "Print a script that completes commands, options and keys. Where it goes: in bash and zsh into a "
        "file that .bashrc or .zshrc sources, in fish into ~/.config/fish/completions/fastsemi.fish.",
    )
    shells = {"bash": _bash, "zsh": lambda *words: _ZSH + _bash(*words), "fish": _fish}
    parser.add_argument("shell", choices=shells, help="which shell")
    shell = parser.parse_args(arguments).shell
    from fastsemi.run.config import known_keys

    sys.stdout.write(shells[shell](_all_options(), [f"--{key}" for key in known_keys()]))
    return 0


@functools.cache
def _all_options() -> dict[str, list[str]]:
    return {name: _options(name) for name in COMMANDS if name not in ("help", "completion")}


def _options(command: str) -> list[str]:
    """The options of a command, as its help lists them."""
    text = io.StringIO()
    module = importlib.import_module(f"fastsemi.commands.{COMMANDS[command][0]}")
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        module.main(command, ["--help"])
    return re.findall(r"(?m)^  (?:-\w, )?(--[\w-]+)", text.getvalue())


def _takes_keys(options: list[str]) -> bool:
    return "--config" in options


def _bash(options: dict[str, list[str]], keys: list[str]) -> str:
    cases = "\n".join(
        f'        {name}) words="{" ".join(mine)}{" $keys" * _takes_keys(mine)}" ;;'
        for name, mine in options.items()
    )
    return _BASH.format(commands=" ".join(COMMANDS), keys=" ".join(keys), cases=cases)


def _fish(options: dict[str, list[str]], keys: list[str]) -> str:
    first = "complete -c fastsemi -n __fish_use_subcommand -f"
    lines = [f"{first} -a {name} -d {shlex.quote(what)}" for name, (_, what) in COMMANDS.items()]
    lines += [f"{first} -l {option}" for option in ("help", "version")]
    for name, mine in options.items():
        lines += [f"{_after(name)} -l {option[2:]}" for option in mine]
    keyed = " ".join(name for name, mine in options.items() if _takes_keys(mine))
    lines += [f"{_after(keyed)} -l {key[2:]}" for key in keys]
    lines += [f"{_after('help')} -f -a {key[2:]}" for key in keys]
    lines += [f"{_after('help')} -f -a {name}" for name in COMMANDS]
    lines += [f"{_after('completion')} -f -a 'bash zsh fish'"]
    return "\n".join([*lines, ""])


def _after(commands: str) -> str:
    return f'complete -c fastsemi -n "__fish_seen_subcommand_from {commands}"'
