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
    if options.per_class is not None and options.labels is not None:
        raise UserError("--per_class and --labels both choose the labelled images; give one of them")
    from fastsemi.loaders.settings import LabelsConfig
    from fastsemi.tools.init.layout import below, find_layout
    from fastsemi.tools.init.make import make, require_recipe

    if options.recipe is not None:
        require_recipe(options.recipe)
    layout = find_layout(options.folder, options.unlabeled, options.labels)
    output = options.output or Path(f"{layout.name}.yaml")
    if output.exists() and not output.is_file():
        raise UserError(f"{output} is there and no file; name the configuration to write with --output FILE")
    if output.exists() and not options.force:
        raise UserError(f"{output} is there already; give --force to replace it, or another --output")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: the folder {output.parent} does not exist; make it")
    labels = LabelsConfig(per_class=options.per_class, file=options.labels or layout.table)
    if options.per_class is not None and layout.table is not None:  # of the images that the table names
        labels = LabelsConfig(per_class=options.per_class)
        layout = replace(layout, train=below(layout.table, layout.root), table=None)
    elif labels.file is None and options.per_class is None:
        labels = LabelsConfig(fraction=1.0)
    logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING)  # training says which engine runs
    made = make(layout, labels, options.recipe)
    with replacing(output) as file:
        file.write(made.text)
    sys.stdout.write("".join(f"{printable(line)}\n" for line in made.lines))
    sys.stdout.write(f"{output} is written; next: fastsemi train --config {shlex.quote(str(output))}\n")
    return 0
