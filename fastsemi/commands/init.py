"""The command `fastsemi init`."""

from __future__ import annotations

import logging
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from fastsemi.commands.options import command_parser
from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.printable import printable


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi init` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "init", "Look at a folder of pictures and write a configuration for it, which `fastsemi train` takes."
    )
    parser.add_argument(
        "folder", type=Path, help="holds train/CLASS/IMAGE, CLASS/IMAGE, or images and a table"
    )
    parser.add_argument("--output", type=Path, help="configuration to write; by default FOLDER.yaml, here")
    parser.add_argument("--unlabeled", type=Path, help="folder of pictures without classes")
    parser.add_argument(
        "--per_class", type=int, help="count this many of each class as labelled; default: all"
    )
    parser.add_argument(
        "--labels",
        type=Path,
        help="table of paths and labels, or a list, as data.labels.file; default: found",
    )
    parser.add_argument("--recipe", help="one of configs/practical/, without its ending")
    parser.add_argument("--force", action="store_true", help="replace a configuration that is there")
    options = parser.parse_args(arguments)
    output, lines = write_configuration(**vars(options))
    sys.stdout.write("".join(f"{printable(line)}\n" for line in lines))
    sys.stdout.write(f"{output} is written; next: fastsemi train --config {shlex.quote(str(output))}\n")
    return 0


def write_configuration(
    folder: Path,
    *,
    output: Path | None = None,
    unlabeled: Path | None = None,
    per_class: int | None = None,
    labels: Path | None = None,
    recipe: str | None = None,
    force: bool = False,
) -> tuple[Path, tuple[str, ...]]:
    """Look at a folder of pictures and write a configuration for it.

    Args:
        folder: Holds train/CLASS/IMAGE, or CLASS/IMAGE.
        output: What to write; by default FOLDER.yaml in the working directory.
        unlabeled: Folder of pictures without classes.
        per_class: How many of each class count as labelled; by default all.
        labels: File that lists the labelled images, as data.labels.file.
        recipe: One of configs/practical/, without its ending; by default what fits.
        force: Whether to replace a configuration that is there.

    Returns:
        What was written, and lines that tell what was found.

    Raises:
        UserError: The folder is of no known layout, or `output` cannot be written.
    """
    if per_class is not None and labels is not None:
        raise UserError("--per_class and --labels both choose the labelled images; give one of them")
    from fastsemi.loaders.settings import LabelsConfig
    from fastsemi.tools.init.layout import below, find_layout
    from fastsemi.tools.init.make import make, require_recipe

    if recipe is not None:
        require_recipe(recipe)
    layout = find_layout(folder, unlabeled, labels)
    output = output or Path(f"{layout.name}.yaml")
    if output.exists() and not output.is_file():
        raise UserError(f"{output} is there and no file; name the configuration to write with --output FILE")
    if output.exists() and not force:
        raise UserError(
            f"{output} is there already; give --force (in Python force=True) to replace it, or another "
            "--output"
        )
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist; make it")
    table = labels or layout.table
    if per_class is not None:
        chosen = LabelsConfig(per_class=per_class)
        if layout.table is not None:  # of the images that the table names
            layout = replace(layout, train=below(layout.table, layout.root), table=None)
    else:
        chosen = LabelsConfig(fraction=1.0 if table is None else None, file=table)
    logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING)  # training says which engine runs
    made = make(layout, chosen, recipe)
    with replacing(output) as file:
        file.write(made.text)
    return output, made.lines
