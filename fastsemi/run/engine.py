"""The loader's engine of a run: chosen once, by the first process, and kept when the run is resumed."""

from __future__ import annotations

from contextlib import suppress

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
        name = _begun_with(run)
        if name is None or name not in here:
            if name is not None:
                run.say(f"the run was begun with the engine {name}, which cannot run here: another goes on")
            name = run.data.engine(run.data.train).name
            with replacing(run.folder.engine) as file:
                file.write(f"{name}\n")
    name = processes.from_main(name)
    if name in here:  # else this machine lacks what the first one has
        run.data.batches.keep_engine(name)


def _begun_with(run: RunContext) -> EngineName | None:
    with suppress(OSError, UnicodeDecodeError):
        return run.folder.engine.read_text().strip() or None  # type: ignore[return-value]
    return None
