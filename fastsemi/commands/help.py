"""What `--help` prints: all commands by what one does, or a command with an example and the keys it takes."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import re
import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

GROUPS = {
    "start": ("init", "data", "suggest", "probe", "completion", "help"),
    "train": ("train", "pretrain", "finetune", "semi", "study"),
    "look": ("evaluate", "compare", "report", "views", "replay"),
    "take away": ("predict", "export"),
    "measure": ("estimate", "profile", "tune", "doctor"),
}

EXAMPLES = {
    "init": "fastsemi init photos",
    "data": "fastsemi data digits data/digits",
    "data beton": "fastsemi data beton photos.beton --images photos/train",
    "suggest": "fastsemi suggest runs/photos --count 20 --to suggest.csv --sheet suggest.png",
    "probe": "fastsemi probe --config photos.yaml",
    "completion": "source <(fastsemi completion bash)",
    "help": "fastsemi help semi.threshold",
    "train": "fastsemi train --config photos.yaml --semi.threshold 0.6",
    "pretrain": "fastsemi pretrain --config photos.yaml --pretrain.length '100 epochs'",
    "finetune": "fastsemi finetune --config photos.yaml --output runs/tuned",
    "semi": "fastsemi semi --config photos.yaml --output runs/tuned",
    "study": "fastsemi study configs/studies/table3.yaml --seeds 0,1,2",
    "evaluate": "fastsemi evaluate --output runs/photos",
    "compare": "fastsemi compare runs/photos runs/photos-long",
    "report": "fastsemi report --output runs/photos",
    "views": "fastsemi views --output runs/photos --png views.png",
    "replay": "fastsemi replay runs/photos 100 --stage semi",
    "predict": "fastsemi predict new_photos --output runs/photos --csv classes.csv",
    "export": "fastsemi export --output runs/photos --format onnx --to photos.onnx",
    "estimate": "fastsemi estimate --config photos.yaml --gpu h100 --gpus 8",
    "profile": "fastsemi profile --config photos.yaml --steps 30",
    "tune": "fastsemi tune loader --config photos.yaml --budget 60s",
    "doctor": "fastsemi doctor --config photos.yaml",
}


def overview(commands: Mapping[str, tuple[str, str]]) -> str:
    """All commands, by what one does.

    Args:
        commands: Of each its module and what it does.
    """
    lines = ["usage: fastsemi COMMAND [--config FILE] [OPTION ...] [--KEY VALUE ...]"]
    for group, names in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {name:<11} {commands[name][1]}" for name in names)]
    return "\n".join(
        [
            *lines,
            "",
            "fastsemi COMMAND --help shows a command with an example. Every KEY of the configuration can be",
            "overridden, for example --semi.threshold 0.5; fastsemi help KEY explains it, --help-all all of",
            "them. --print_config prints the resolved configuration, fastsemi --version the version.",
            "",
        ]
    )


def width() -> int:
    """Columns to print in."""
    return min(110, shutil.get_terminal_size((100, 24)).columns - 1)


class Formatter(argparse.HelpFormatter):
    """Options in a line each, where the terminal is wide enough."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=30, width=width())

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        short = {int: "N", float: "X", Path: "PATH"}.get(action.type)  # type: ignore[call-overload]
        return short or super()._get_default_metavar_for_optional(action)


def key_overview() -> str:
    """Which keys a configuration has, by their sections, in a few lines."""
    from fastsemi.run.config import hint, known_keys

    keys = known_keys()
    leaves = [key for key in keys if not dataclasses.is_dataclass(hint(key))]
    words = [", ".join(key for key in leaves if "." not in key)]
    for name in (key for key in keys if "." not in key and key not in leaves):
        about = (inspect.getdoc(hint(name)) or "").splitlines()[0].split(". ")[0].split(": ")[0].rstrip(".")
        count = sum(key.startswith(f"{name}.") for key in leaves)
        words.append(f"{name}.* ({count}: {about[:1].lower()}{about[1:]})")
    text = textwrap.fill("; ".join(words), width(), initial_indent="  ", subsequent_indent="  ")
    return f"keys, as --KEY VALUE (fastsemi help KEY or SECTION explains them, --help-all all):\n{text}\n"


def explain(key: str) -> str:
    """A key of the configuration, or all keys of a section, with type, default and meaning.

    Raises:
        UserError: There is no such key.
    """
    from fastsemi.run.config import known_keys, unknown_key

    if key not in known_keys():
        raise unknown_key(key, "the configuration")
    entries = re.split(r"(?m)^(?=  --)|\n\n", all_keys())
    return (
        "".join(entry for entry in entries if re.match(rf"  --{re.escape(key)}[ .]", entry)).rstrip() + "\n"
    )


def explain_section(command: str) -> str:
    """The keys of the section that is called as a command; nothing where none is."""
    from fastsemi.run.config import known_keys

    return f"\nkeys of the section {command}:\n{explain(command)}" if command in known_keys() else ""


def all_keys() -> str:
    """Every key of the configuration, with type, default and meaning."""
    from fastsemi.run.config import make_parser

    return make_parser().format_help().split("\n\n", 1)[-1]
