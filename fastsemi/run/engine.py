"""The loader's engine of a run: chosen once, by the first process, and kept for all that follows."""

from __future__ import annotations

from typing import get_args

from fastsemi.common.files import replacing
from fastsemi.loaders.data import Data
from fastsemi.loaders.engines.choose import candidates
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.folder import RunFolder


def settle_engine(run: RunContext) -> None:
    """Where `loader.engine` is `auto`, let all processes have the engine that the run was begun with.

    Engines round differently, so that another one would change the weights. One that cannot run here is
    replaced, and the user is told.
    """
    if run.config.loader.engine != "auto":
        return
    name, here = None, {*candidates(run.data.on_gpu), "thread_pool"}
    if processes.is_main():
        name = begun = _begun_with(run.folder)
        if name not in here:
            name = run.data.engine(run.data.train).name
            if begun in get_args(EngineName):
                run.say(f"the run was begun with the engine {begun}, which cannot run here: {name} goes on")
            elif begun is not None:
                run.say(f"{run.folder.engine} does not name an engine: {name} goes on")
            with replacing(run.folder.engine) as file:
                file.write(f"{name}\n")
    name = processes.from_main(name)
    if name in here:  # else this machine lacks what the first one has
        run.data.batches.keep_engine(name)


def read_as_trained(config: Config, data: Data) -> None:
    """Where `loader.engine` is `auto`, let all processes read with the engine that the run was trained with.

    Nothing is changed where that is not known or cannot run here.

    Args:
        config: The finished run.
        data: Images that its network is to see.
    """
    if config.loader.engine != "auto":
        return
    name = processes.from_main(_begun_with(RunFolder(config.output)) if processes.is_main() else None)
    if name in {*candidates(data.on_gpu), "thread_pool"}:
        data.batches.keep_engine(name)


def _begun_with(folder: RunFolder) -> str | None:
    """What the run's file says, whether or not that is an engine; None where there is no such file."""
    try:
        return folder.engine.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return ""
