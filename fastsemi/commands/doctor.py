"""The command `fastsemi doctor`."""

from __future__ import annotations

import json
import logging
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastsemi.commands.inputs import require_file
from fastsemi.commands.options import command_parser, configure
from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.run.folder import RunFolder

if TYPE_CHECKING:
    from fastsemi.run.config import Config
    from fastsemi.tools.health.health import Health
    from fastsemi.tools.health.roles import Role
    from fastsemi.tools.init.layout import Layout


def main(command: str, arguments: list[str]) -> int:
    """Run `fastsemi doctor` with the words that follow it; returns 1 where a required part fails."""
    parser = command_parser(
        "doctor", "Check what works on this machine; with --config also the images of the configuration."
    )
    parser.add_argument(
        "--data",
        nargs="?",
        const="",
        metavar="FOLDER",
        help="look at every image, of the configuration or of a folder as `fastsemi init` takes it, for what "
        "is broken, there twice, trained and evaluated on, or in the wrong class",
    )
    parser.add_argument(
        "--json", nargs="?", const="", metavar="FILE", help="write JSON, or print it where no file is given"
    )
    options, config = configure(parser, arguments)
    if config is None:
        return 0
    if options.json:
        require_file("--json", Path(options.json))
    return _data(config, options) if options.data is not None else _machine(config, options)


def _machine(config: Config, options: Namespace) -> int:
    from fastsemi.common.progress import QuietConsole
    from fastsemi.run.fit_batches import with_fitting_batches
    from fastsemi.tools.doctor.diagnose import diagnose, show, to_json, works

    if options.config:
        config = with_fitting_batches(config, options.by_hand, strict=False)
    checks = list(diagnose(config, data=bool(options.config)))
    if options.json is not None:
        _write(to_json(checks), options.json)
    else:
        show(checks, QuietConsole())
    return 0 if works(checks) else 1


def _data(config: Config, options: Namespace) -> int:
    from fastsemi.tools.init.layout import find_layout

    logging.getLogger("fastsemi.loaders").setLevel(logging.WARNING)  # what it says of images is said below
    if options.data and options.config:
        raise UserError("--data FOLDER and --config both name images; give one of them")
    layout = find_layout(Path(options.data)) if options.data else None
    from fastsemi.tools.health.health import to_json
    from fastsemi.tools.health.lines import lines

    health = _health(config) if layout is None else _health_of_folder(layout, config)
    text = json.dumps(to_json(health), indent=2)
    if options.json is not None:
        _write(text, options.json)
    said = list(lines(health))
    run = RunFolder(config.output)
    if not options.data and run.config.is_file():
        _write(text, str(run.health))
        said.append(f"written to {run.health}, which `fastsemi report` shows")
    if options.json != "":
        sys.stdout.write("".join(f"{line}\n" for line in said))
    return 0 if health.works else 1


def _health(config: Config) -> Health:
    from fastsemi.loaders.data import Data
    from fastsemi.tools.health.health import examine
    from fastsemi.tools.health.roles import roles_of

    with closing(Data(config.data, config.loader)) as data:
        roles = roles_of(data, config.stages)
        with _bar(roles) as progress:
            size = config.data.image_size
            return examine(roles, config.data, config.loader, image_size=size, progress=progress)


def _health_of_folder(layout: Layout, config: Config) -> Health:
    from dataclasses import replace

    from fastsemi.loaders.data import Data
    from fastsemi.loaders.settings import LabelsConfig
    from fastsemi.tools.health.health import examine
    from fastsemi.tools.health.roles import roles_of_folder

    every = None if layout.table else 1.0
    # A part to hold out is asked for without evaluation images.
    labels = LabelsConfig(fraction=every, file=layout.table, validation=0.2)
    images = replace(
        config.data,
        root=layout.root,
        train=layout.train,
        val=layout.val,
        unlabeled=layout.unlabelled,
        labels=labels,
    )
    with closing(Data(images, config.loader)) as data:
        roles = roles_of_folder(data)
        with _bar(roles) as progress:
            return examine(roles, images, config.loader, progress=progress)


@contextmanager
def _bar(roles: Sequence[Role]) -> Iterator[Callable[[int], None]]:
    """What is to be called with the number of images that have just been looked at; a bar on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("images", total=sum(len(role.images.ids) for role in roles))
        yield lambda count: bars.advance(task, count)


def _write(text: str, file: str) -> None:
    if not file:
        sys.stdout.write(f"{text}\n")
        return
    with replacing(Path(file), encoding="utf-8", errors="surrogateescape") as out:
        out.write(f"{text}\n")
