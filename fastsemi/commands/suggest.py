"""The command `fastsemi suggest`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from fastsemi.commands.inputs import require_file, require_inputs
from fastsemi.commands.options import command_parser, configure, split
from fastsemi.common.errors import UserError
from fastsemi.loaders.sources.open import EVALUATION_FOLDERS, require_images
from fastsemi.run.folder import RunFolder


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi suggest` with the words that follow it; returns the exit code."""
    parser = command_parser(
        "suggest",
        "Which images to label next: a table with an empty label for each, and a picture of them. RUN is a "
        "trained run; without one, --config FILE chooses for a run to come, and --images FOLDER the first "
        "labels of all.",
    )
    parser.add_argument("run", nargs="?", type=Path, help="the run directory")
    parser.add_argument("--count", type=int, default=20, help="how many images; 20 by default")
    parser.add_argument("--images", metavar="DIR", help="pictures of which none has a label yet")
    parser.add_argument(
        "--to", type=Path, metavar="CSV", default=Path("suggest.csv"), help="table to write: suggest.csv"
    )
    parser.add_argument("--sheet", type=Path, metavar="PNG", help="picture to write; by default beside --to")
    parser.add_argument("--force", action="store_true", help="replace a table that is there")
    if not {"--help", "-h", "--help-all"} & set(arguments):
        run = parser.parse_known_args(split(parser, arguments)[0])[0].run
        if run is not None:
            RunFolder(run).require_model()
            arguments = [*arguments, "--output", str(run)]
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    sheet = options.sheet or options.to.with_suffix(".png")
    if options.count < 1:
        raise UserError(f"--count {options.count} suggests nothing; give 1 or more")
    if options.images is None and options.run is None and not options.config:
        raise UserError("there is nothing to choose from; give RUN, --config FILE or --images FOLDER")
    if options.images is not None and options.run is not None:
        raise UserError("--images is for pictures of which none has a label; give --data.unlabeled to a run")
    require_file("--to", options.to, ".csv")
    require_file("--sheet", sheet, ".png")
    if options.to.exists() and not options.force:
        raise UserError(
            f"{options.to} is there already and may hold labels; give another --to, or --force to replace it"
        )
    if options.images is None:
        require_inputs(config, config.stages)
    else:
        _require_unlabelled(options.images)
    from fastsemi.tools.suggest.suggest import suggest
    from fastsemi.tools.suggest.table import MOST_DRAWN, draw_sheet, write_table
    from fastsemi.tools.suggest.use import options as to_train

    found = suggest(
        config,
        options.count,
        trained=options.run is not None,
        images=options.images,
        drawn=MOST_DRAWN,
    )
    write_table(found, options.to)
    draw_sheet(found, sheet)
    some = f" (the first {MOST_DRAWN})" if options.count > MOST_DRAWN else ""
    others = f", then {len(found.others):,} others without" if found.others else ""
    after = f"train with a new --output and {shlex.join(to_train(config.data, options.to))}"
    if options.images is not None:
        after = f"fastsemi init {shlex.join([options.images, '--labels', str(options.to)])}"
    sys.stdout.write(
        f"{options.count} images to label are the first rows of {options.to}, {len(found.labelled):,} that "
        f"have a label follow{others}; pictures{some}: {sheet}\n"
        f"fill in the labels; then {after}\n"
    )
    return 0


def _require_unlabelled(images: str) -> None:
    """Refuse what `init` could not take with the table, and images that are to be evaluated on."""
    require_images(Path(), images)
    if not Path(images).is_dir():
        raise UserError(f"--images {images} is no folder, and its images could get no label; name a folder")
    for name in ("train", *EVALUATION_FOLDERS):
        if Path(images, name).is_dir():
            raise UserError(
                f"images of {Path(images, name)} would be among those to label; give --images the folder of "
                f"the pictures without a label alone, such as {Path(images, 'unlabeled')}, or --config FILE "
                "where some have one"
            )
