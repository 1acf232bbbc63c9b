"""The loader's engine of a run: chosen once, by the first process, and kept when the run is resumed."""

from __future__ import annotations

from typing import get_args

from fastsemi.common.files import replacing
from fastsemi.loaders.engines.choose import candidates
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.parallel import processes
from fastsemi.run.context import RunContext


def settle_engine(run: RunContext) -> None:
    """Where `loader.engine` is `auto`, let all processes have the engine that the run was begun with.

    Engines round differently, so that another one would change the weights. One that cannot run here is
    replaced, and the user is told.
    """
    if run.config.loader.engine != "auto":
        return
    name, here = None, {*candidates(run.data.on_gpu), "thread_pool"}
    if processes.is_main():
        name = begun = _begun_with(run)
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


def _begun_with(run: RunContext) -> str | None:
    """What the run's file says, whether or not that is an engine; None where there is no such file."""
    try:
        return run.folder.engine.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        return ""
