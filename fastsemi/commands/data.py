"""The command `fastsemi data`: writes data sets as folders of images, and packs images into one file."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import get_args

from fastsemi.commands.options import command_parser
from fastsemi.common.errors import UserError
from fastsemi.common.job import Job


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi data` with the words that follow it; returns the exit code."""
    if arguments[:1] == ["beton"]:
        return _beton(arguments[1:])
    from fastsemi.tools import datasets

    writers = {"digits": datasets.write_digits, "fashion-mnist": datasets.write_fashion_mnist}
    parser = command_parser(
        "data", "Write a data set as folders of images. To pack one: fastsemi data beton --help"
    )
    parser.add_argument("name", choices=writers, help="which data set")
    parser.add_argument("out", type=Path, help="folder to write")
    options = parser.parse_args(arguments)
    writers[options.name](options.out)
    sys.stdout.write(f"{options.out}\n")
    return 0


def _beton(arguments: list[str]) -> int:
    from fastsemi.loaders import write_beton as beton
    from fastsemi.loaders.bad_images import BadImages
    from fastsemi.loaders.index.index import MAX_PIXELS
    from fastsemi.loaders.index.table import Part
    from fastsemi.loaders.sources.open import is_table, open_source

    default = beton.Encoding()
    parser = command_parser("data beton", "Pack images into a .beton, the file of FFCV.")
    parser.add_argument("out", type=Path, help="file to write, NAME.beton")
    parser.add_argument("--images", required=True, help="folder, or whatever else data.train may name")
    parser.add_argument("--mode", default=default.mode, help="jpeg, or raw for pixels (nothing to decode)")
    parser.add_argument("--max_side", type=int, default=default.max_side, help="0 keeps all sizes")
    parser.add_argument("--quality", type=int, default=default.quality, help="of JPEGs encoded anew")
    parser.add_argument("--without_classes", action="store_true", help="the images have no classes")
    parser.add_argument("--labels", type=Path, help="table of labels of the images in a folder")
    parser.add_argument("--split", choices=get_args(Part), help="rows of a table with a column split")
    parser.add_argument("--max_bad", type=int, default=0, help="broken images to leave out at most")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="encoding threads")
    parser.add_argument(
        "--job", default="1/1", help="i/N: the i-th of N equal shares; its file is called NAME-i-of-N.beton"
    )
    options = parser.parse_args(arguments)
    job = Job.parse(options.job)
    if options.out.suffix != ".beton":
        raise UserError(f"{options.out} does not end in .beton; add it, the name tells the kind of file")
    encoding = beton.Encoding(options.mode, options.max_side, options.quality)
    if options.labels is not None and options.without_classes:
        raise UserError("--labels gives images their classes, --without_classes leaves them out; give one")
    for name, least in (("threads", 1), ("max_bad", 0)):
        if (value := getattr(options, name)) < least:
            raise UserError(f"--{name} is {value}; it must be at least {least}")
    if options.split and options.labels is None and not is_table(Path(options.images)):
        raise UserError(f"--split chooses rows of a table, and {options.images} is none; leave it out")
    source = open_source(
        Path(),
        options.images,
        has_classes=not options.without_classes,
        max_pixels=MAX_PIXELS,
        part=options.split,
        labels=options.labels,
    )
    out = job.file(options.out)
    count = beton.write_beton(
        out,
        source,
        source.index,
        encoding=encoding,
        max_pixels=MAX_PIXELS,
        threads=options.threads,
        bad=BadImages(options.max_bad),
        job=job,
    )
    sys.stdout.write(f"{count} images in {out}\n")
    return 0
