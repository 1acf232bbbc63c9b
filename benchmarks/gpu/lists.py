"""What `benchmarks.gpu.suite` runs, in which order, and how long each part may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

FULL_SECONDS, QUICK_SECONDS = 525, 172
TINY_SECONDS = 900  # it takes a minute; a machine may have other work


@dataclass(frozen=True)
class Part:
    """A process of the suite."""

    name: str
    command: tuple[str, ...]
    """Module and options; `{out}` stands for the folder of results."""
    seconds: float
    """Time limit."""
    needs: tuple[str, ...] = ()
    """Modules without which it is skipped."""
    gpu: bool = False
    """Whether it is skipped without a CUDA GPU."""


def _part(name: str, seconds: float, tiny: bool) -> Part:
    options = ("--out", "{out}", *(("--tiny",) if tiny else ()))
    return Part(name, ("benchmarks.gpu.parts", name, *options), seconds)


def _steps(size: str, seconds: float, options: Sequence[str]) -> Part:
    command = ("benchmarks.steps", "--models", size, "--json", f"{{out}}/steps_{size}.json", *options)
    return Part(f"steps {size}", command, seconds, ("timm",))


def _whole(seconds: float, options: Sequence[str]) -> Part:
    command = ("benchmarks.step.end_to_end", "--json", "{out}/end_to_end.json", *options)
    return Part("end to end", command, seconds, ("timm", "PIL"))


def full() -> list[Part]:
    """The parts of nine minutes, the most wanted first."""
    return [
        _part("environment", 40, False),
        _part("peaks", 40, False),
        _steps("B", 60, ("--no-compile", "--peer-fused")),
        _steps("L", 60, ("--no-compile",)),
        _steps("H", 80, ("--no-compile", "--rounds", "7")),
        _steps("S", 50, ("--no-compile",)),
        Part("kernels", ("benchmarks.kernels", "--json", "{out}/kernels.json"), 80, ("triton",)),
        _part("waits", 50, False),
        _part("native", 70, False),
        _whole(110, ("--count", "1024", "--steps", "8")),
        _part("tests", 90, False),
        _dali(60),
        _profile(60, ("--model", "S", "--batch", "8", "--pairs", "20", "--steps", "10")),
        # All cases again with the compiled ones; where that takes too long, what is above stays.
        replace(_steps("B", 150, ("--compile", "--peer-fused")), name="steps B, compiled too"),
        replace(_steps("L", 170, ("--compile",)), name="steps L, compiled too"),
    ]


def quick() -> list[Part]:
    """The parts of three minutes."""
    few = ("--quick", "--rounds", "5", "--steps", "3")
    kernels = ("benchmarks.kernels", "--json", "{out}/kernels.json", "--no-compile", "--rounds", "9")
    return [
        _part("environment", 30, False),
        _part("peaks", 30, False),
        *(_steps(size, 40, few) for size in "BLHS"),
        Part("kernels", kernels, 40, ("triton",)),
        _part("waits", 30, False),
        _part("native", 60, False),
        _whole(45, ("--count", "512", "--steps", "6")),
    ]


def tiny() -> list[Part]:
    """Every part, on a CPU, in seconds."""
    kernels = ("--batch", "2", "--size", "8", "--classes", "10", "--rounds", "5", "--no-compile")
    whole = ("--model", "tiny", "--batch", "2", "--count", "48", "--steps", "1")
    return [
        _part("environment", 300, True),
        _part("peaks", 300, True),
        _steps("tiny", 300, ("--no-compile", "--rounds", "5")),
        Part("kernels", ("benchmarks.kernels", "--json", "{out}/kernels.json", *kernels), 300, ("triton",)),
        _part("waits", 300, True),
        _part("native", 300, True),
        _whole(300, whole),
        replace(_part("tests", 300, True), gpu=True),
        _dali(300),
        _profile(300, ("--model", "tiny", "--batch", "2", "--count", "48", "--pairs", "5", "--steps", "1")),
    ]


def _dali(seconds: float) -> Part:
    """Two views from one decode against the stock pipeline's two decodes."""
    options = ("--only", "dali", "--parts", "views", "--rounds", "5", "--count", "1024")
    command = ("benchmarks.loaders", *options, "--json", "{out}/loaders.json")
    return Part("dali", command, seconds, ("nvidia.dali", "simplejpeg"), gpu=True)


def _profile(seconds: float, options: Sequence[str]) -> Part:
    """What the profiler's events cost, which a CPU does not tell."""
    command = ("benchmarks.step.profile_overhead", "--json", "{out}/profile_overhead.json", *options)
    return Part("profile overhead", command, seconds, ("timm", "PIL", "jsonargparse", "rich", "tensorboard"))
