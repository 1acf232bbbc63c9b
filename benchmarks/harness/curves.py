"""Accuracy over the CPU seconds of training, as JSON, and the table of it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastsemi.common.files import replacing


@dataclass(frozen=True)
class Point:
    """An evaluation."""

    seconds: float
    """CPU seconds of training before it."""
    top1: dict[str, float]
    """Percent, by network."""


@dataclass(frozen=True)
class Curve:
    """One training."""

    data: str
    method: str
    seed: int
    """Of the labels and of everything random."""
    settings: dict[str, Any]
    seconds: float
    steps: int
    points: list[Point]

    @property
    def key(self) -> tuple[str, str, int, str]:
        """What tells it from the other ones of a file."""
        return (self.data, self.method, self.seed, json.dumps(self.settings, sort_keys=True))

    def path(self, *networks: str) -> list[tuple[float, float]]:
        """CPU seconds and top-1 of each evaluation, of the first of these networks that it has."""
        found = ((p.seconds, next((p.top1[n] for n in networks if n in p.top1), None)) for p in self.points)
        return [(seconds, top1) for seconds, top1 in found if top1 is not None]


def read(path: Path) -> list[Curve]:
    """The curves of a file; none where there is no file."""
    if not path.exists():
        return []
    rows = json.loads(path.read_text())["curves"]
    return [Curve(**{**row, "points": [Point(**point) for point in row["points"]]}) for row in rows]


def add(path: Path, curve: Curve, environment: dict[str, Any]) -> None:
    """Write a curve to a file, in place of the one with the same key; `environment` is that of the newest."""
    curves = {old.key: old for old in read(path)}
    curves[curve.key] = curve
    ordered = sorted(curves.values(), key=lambda c: c.key)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        json.dump({"environment": environment, "curves": [asdict(c) for c in ordered]}, file, indent=1)
        file.write("\n")


FIRST_OF_TRIALS = 10  # settings are chosen on seeds from here on, results are those of the seeds below
# Method, how it is called, the networks that count, the first that an evaluation has.
SERIES = (
    ("fastsemi", "fastsemi, teacher", ("teacher", "model")),
    ("plain", "plain FixMatch, network", ("network",)),
    ("plain", "plain FixMatch, moving average", ("ema",)),
    ("fixmatch", "semilearn FixMatch, network", ("network",)),
    ("fixmatch", "semilearn FixMatch, moving average", ("ema",)),
    ("freematch", "semilearn FreeMatch, network", ("network",)),
    ("freematch", "semilearn FreeMatch, moving average", ("ema",)),
)


@dataclass(frozen=True)
class Series:
    """The trainings of a method with one choice of settings, over seeds."""

    label: str
    curves: dict[int, Curve]
    """By seed."""
    networks: tuple[str, ...]

    def at(self, seconds: float) -> list[float]:
        """The newest top-1 of each seed after so many CPU seconds; NaN before the first evaluation."""
        return [newest(curve.path(*self.networks), seconds) for _, curve in sorted(self.curves.items())]


def newest(path: Sequence[tuple[float, float]], seconds: float) -> float:
    """The last value at or before a time; NaN before the first."""
    return next((value for when, value in reversed(path) if when <= seconds), math.nan)


def series(curves: Iterable[Curve]) -> list[Series]:
    """The series of results (no trials) over the seeds that all of them have; none where there is none."""
    results = [curve for curve in curves if curve.seed < FIRST_OF_TRIALS]
    groups: dict[tuple[str, str], dict[int, Curve]] = {}
    for curve in results:
        groups.setdefault((curve.method, _settings(curve)), {})[curve.seed] = curve
    shared = set.intersection(*(set(group) for group in groups.values())) if groups else set()
    if not shared:
        return []
    methods = [method for method, _ in groups]
    return [
        Series(
            f"{label}{settings if methods.count(of) > 1 else ''}",
            {seed: group[seed] for seed in shared},
            networks,
        )
        for method, label, networks in SERIES
        for (of, settings), group in groups.items()
        if of == method
    ]


def _settings(curve: Curve) -> str:
    """What tells trainings of one method apart."""
    if not _is_peer(curve):
        return ""
    batch, lr, ema, budget = (f"{curve.settings[key]:g}" for key in ("batch", "lr", "ema", "budget"))
    return f" ({batch} labels a step, rate {lr}, average {ema}, {budget} s)"


def _is_peer(curve: Curve) -> bool:
    return "lr" in curve.settings


def table(curves: Sequence[Curve], baselines: dict[int, float], times: Sequence[float]) -> str:
    """Top-1 of every series after some CPU seconds and at its end, and how far fastsemi ends above it.

    Means and deviations are over seeds, those of differences too.

    Args:
        curves: All that were measured.
        baselines: Top-1 of label spreading on pixels by seed.
        times: CPU seconds.
    """
    found = series(curves)
    if not found:
        return "Not measured yet."
    seeds = sorted(found[0].curves)
    ours = next((line for line in found if line.label.startswith("fastsemi")), None)
    heads = [f"after {seconds:g} s" for seconds in times]
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; mean ± deviation.",
        "",
        f"| | {' | '.join(heads)} | at the end | fastsemi above it | CPU seconds | steps |",
        f"|---|{'--:|' * (len(times) + 4)}",
    ]
    for line in found:
        cells = [spread(line.at(seconds)) for seconds in (*times, math.inf)]
        seconds = statistics.mean(curve.seconds for curve in line.curves.values())
        steps = statistics.mean(curve.steps for curve in line.curves.values())
        above = _above(ours, line.at(math.inf))
        lines.append(f"| {line.label} | {' | '.join(cells)} | {above} | {seconds:.0f} | {steps:.0f} |")
    spreading = [baselines.get(seed, math.nan) for seed in seeds]
    above = _above(ours, spreading)
    lines.append(f"| label spreading on pixels |{' |' * len(times)} {spread(spreading)} | {above} | | |")
    return "\n".join(lines)


def times(curves: Sequence[Curve], baselines: dict[int, float], levels: Sequence[float]) -> str:
    """CPU seconds until every series is first seen at some levels of top-1, and at that of label spreading.

    Medians and ranges are over seeds; a training that never gets there counts as infinitely long.

    Args:
        curves: All that were measured.
        baselines: Top-1 of label spreading on pixels by seed.
        levels: Top-1 in percent.
    """
    found = series(curves)
    if not found:
        return "Not measured yet."
    seeds = sorted(found[0].curves)
    bars = {f"{level:g} %": [level] * len(seeds) for level in levels}
    spreading = [baselines.get(seed, math.inf) for seed in seeds]
    bars["label spreading"] = spreading
    bars["1 point above it"] = [level + 1 for level in spreading]
    lines = [
        f"Seeds {', '.join(map(str, seeds))}; median (range) of the CPU seconds to",
        "",
        f"| | {' | '.join(bars)} |",
        f"|---|{'--:|' * len(bars)}",
    ]
    for line in found:
        paths = [curve.path(*line.networks) for _, curve in sorted(line.curves.items())]
        cells = [_duration(list(map(seconds_to, paths, bar))) for bar in bars.values()]
        lines.append(f"| {line.label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def seconds_to(path: Sequence[tuple[float, float]], level: float) -> float:
    """When a value at or above a level is first seen; infinite where it never is."""
    return next((when for when, value in path if value >= level), math.inf)


def _duration(seconds: Sequence[float]) -> str:
    arrived = [value for value in seconds if value < math.inf]
    if not arrived:
        return "never"
    median, share = statistics.median(seconds), f"{len(arrived)} of {len(seconds)}"
    if len(arrived) == len(seconds):
        return f"{median:.0f} ({min(seconds):.0f} to {max(seconds):.0f})"
    return f"{median:.0f}, in {share}" if median < math.inf else f"in {share}"


def _above(ours: Series | None, theirs: Sequence[float]) -> str:
    if ours is None:
        return "-"
    gains = [mine - other for mine, other in zip(ours.at(math.inf), theirs, strict=True)]
    return spread(gains, sign=True) if any(gains) else ""


def trials(curves: Sequence[Curve]) -> str:
    """Top-1 at the end of each trial of a peer's settings."""
    tried = [curve for curve in curves if curve.seed >= FIRST_OF_TRIALS and _is_peer(curve)]
    lines = [
        "| method | labels a step | rate | momentum | CPU seconds | steps | seed | network | average |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for c in sorted(tried, key=lambda c: (c.method, c.settings["batch"], c.settings["lr"], c.seed)):
        ends = [f"{newest(c.path(network), math.inf):.1f}" for network in ("network", "ema")]
        chosen = (c.settings["batch"], *(f"{c.settings[key]:g}" for key in ("lr", "ema", "budget")))
        lines.append(f"| {' | '.join(map(str, (c.method, *chosen, c.steps, c.seed, *ends)))} |")
    return "\n".join(lines)


def spread(values: Sequence[float], *, sign: bool = False) -> str:
    """Mean and sample deviation; a dash where a value is missing."""
    if any(math.isnan(value) for value in values):
        return "-"
    mean = f"{statistics.mean(values):+.1f}" if sign else f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean
