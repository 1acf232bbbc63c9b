"""Which of several engines is the fastest here: a short trial on the run's images, which is remembered."""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fastsemi.common.errors import UserError
from fastsemi.common.files import replacing
from fastsemi.common.leaving import abandon
from fastsemi.loaders.engines.base import Engine, Pending
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.loaders.index.cache import cache_folder, default_cache_dir, open_or_build
from fastsemi.loaders.plan.draws import AugmentConfig, View, plan_view
from fastsemi.loaders.plan.types import PlannedBatch
from fastsemi.loaders.sources.base import Source

BATCH, AHEAD = 64, 4
ROUNDS, ROUND_S = 3, 0.3  # with two engines about two seconds
PATIENCE_S = 30.0  # for a batch; an engine's first one may build a pipeline

_log = logging.getLogger(__name__)

Makers = Mapping[EngineName, Callable[[], Engine]]


def fastest(makers: Makers, source: Source, image_size: int, of: Sequence[str]) -> tuple[EngineName, str]:
    """The engine with the highest rate, and why, in words.

    The trial is held once for the same `of` and remembered in the cache; processes that start together wait
    for the one that holds it. An engine that fails or does not answer has lost, and one in whose turn a
    process ended is tried no more: a decoder may end it by a segmentation fault.

    Args:
        makers: The engines by name; the first one is taken where all fail.
        source: The images.
        image_size: Side of a view in pixels.
        of: All that the result depends on: machine, versions, kind of source, sizes, threads.
    """
    folder = cache_folder([*makers, *of], default_cache_dir().with_name("engines"))
    path = folder / "rates.json"

    def build() -> dict[EngineName, float]:
        alive = {name: make for name, make in makers.items() if not _turn(folder, name).exists()}
        rates = race(alive, source, image_size, partial(_in_turn, folder))
        if all(rates.values()) and alive == makers:  # a failure may be over the next time
            with replacing(path) as file:
                json.dump({"of": list(of), "rates": rates}, file)
        return rates | {name: 0.0 for name in makers if name not in alive}

    try:
        known = _known(path, makers)
        rates = known or open_or_build(folder, "engines", lambda: _known(path, makers), build)
    except UserError:  # the cache cannot be written
        known, rates = None, race(makers, source, image_size)
    best = max(rates, key=lambda name: rates[name])
    text = ", ".join(f"{name} {rate:,.0f}" if rate else _failed(folder, name) for name, rate in rates.items())
    when = f"as tried before ({path})" if known else "in a short trial"
    return best, f"images/s {when}: {text}"


def _turn(folder: Path, name: EngineName) -> Path:
    return folder / f"turn_of_{name}"


@contextlib.contextmanager
def _in_turn(folder: Path, name: EngineName) -> Iterator[None]:
    """A file is there in an engine's turn, and stays where that ends the process."""
    _turn(folder, name).touch()
    try:
        yield
    finally:
        _turn(folder, name).unlink(missing_ok=True)


def _failed(folder: Path, name: EngineName) -> str:
    if not (turn := _turn(folder, name)).exists():
        return f"{name} failed"
    return f"{name} not tried, since a process ended in its turn before (delete {turn} to try it again)"


def _known(path: Path, makers: Makers) -> dict[EngineName, float] | None:
    try:
        rates = json.loads(path.read_text())["rates"]
        return {name: float(rates[name]) for name in makers}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def race(
    makers: Makers,
    source: Source,
    image_size: int,
    in_turn: Callable[[EngineName], AbstractContextManager[None]] = lambda _: contextlib.nullcontext(),
) -> dict[EngineName, float]:
    """Images/s of each engine: the median of rounds that they take in turn, 0 for one that fails.

    All read the same images again and again, so the rates are those of decoding and not of the disk. What
    `in_turn` gives for an engine is entered while it works.
    """
    if not source.sizes.any():  # all images are broken
        return dict.fromkeys(makers, 0.0)
    plan = _plan(source, image_size)
    engines: dict[EngineName, Engine] = {}
    rates: dict[EngineName, list[float]] = {name: [] for name in makers}
    try:
        for r in range(-1, ROUNDS):  # one before these to start up
            for name, make in makers.items():
                if r >= 0 and name not in engines:
                    continue
                try:
                    with in_turn(name):
                        if r < 0:
                            engines[name] = make()
                        rate = _rate(engines[name], plan, image_size, ROUND_S if r >= 0 else 0)
                except Exception as error:  # of any library: a trial is no reason to fail
                    _log.debug("the engine %s failed in a trial: %s", name, error)
                    _let_go(engines.pop(name, None), stuck=isinstance(error, TimeoutError))
                    rates[name] = []
                    continue
                if r >= 0:
                    rates[name].append(rate)
    finally:
        for engine in engines.values():
            _let_go(engine)
    return {name: median(found) if found else 0.0 for name, found in rates.items()}


def _plan(source: Source, image_size: int) -> PlannedBatch:
    """Two views of images from all over the source, as training draws them."""
    good = np.flatnonzero(source.sizes.min(1) > 0)
    ids = good[np.linspace(0, len(good) - 1, BATCH).astype(np.int64)]  # a small set has some twice
    views = tuple(
        plan_view(
            AugmentConfig(randaugment="", erase=0.0),
            seed=0,
            epoch=np.zeros_like(ids),
            ids=ids,
            view=view,
            sizes=source.sizes[ids],
            image_size=image_size,
        )
        for view in (View.WEAK, View.STRONG)
    )
    return PlannedBatch(ids, np.full(len(ids), -1, np.int64), views)


def _rate(engine: Engine, plan: PlannedBatch, image_size: int, seconds: float) -> float:
    """Images/s over about so many seconds, with batches ahead as in training; one batch at the least."""
    device = "cpu" if engine.device is None else f"cuda:{engine.device}"
    shape = (len(plan.views), len(plan.ids), image_size, image_size, 3)
    slots = [torch.empty(shape, dtype=torch.uint8, device=device) for _ in range(AHEAD)]
    flying: deque[Pending] = deque()
    start, count = time.perf_counter(), 0
    while True:
        more = count == 0 or time.perf_counter() - start < seconds
        while more and len(flying) < AHEAD:
            flying.append(engine.submit(plan, slots[(count + len(flying)) % AHEAD]))
        if not flying:
            return count * len(plan.ids) / (time.perf_counter() - start)
        flying.popleft().result(PATIENCE_S)
        count += 1


def _let_go(engine: Engine | None, stuck: bool = False) -> None:
    if engine is None:
        return
    if stuck:
        abandon(engine)  # closing it would wait for what hangs
    else:
        engine.close()
