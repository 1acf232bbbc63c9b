"""What `benchmarks.gpu.suite` runs, in which order, and how long each part may take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

QUICK_SECONDS = 172
RACE = "native,hw_load,nvJPEG,DALI stock"  # whole images: windows may end the process
TINY_SECONDS = 900  # it takes a minute; a machine may have other work


@dataclass(frozen=True)
class Part:
    """A process of the suite."""

    name: str
    command: tuple[str, ...]
    """Module and options; `{out}` stands for the folder of results, `{seconds}` for the time of measuring."""
    seconds: float
    """Time limit."""
    needs: tuple[str, ...] = ()
    """Modules without which it is skipped."""
    gpu: bool = False
    """Whether it is skipped without a CUDA GPU."""
    variables: tuple[tuple[str, str], ...] = ()
    """Environment variables that it has beside the suite's."""


@dataclass(frozen=True)
class Call:
    """Parts that share a deadline: one command on a machine that takes commands of limited length."""

    parts: tuple[Part, ...]
    seconds: float
    """Of all parts together."""


def _part(name: str, seconds: float, tiny: bool = False) -> Part:
    options = ("--out", "{out}", *(("--tiny",) if tiny else ()))
    return Part(name, ("benchmarks.gpu.parts", name.replace(" ", "_"), *options), seconds)


def _steps(size: str, seconds: float, *options: str, file: str = "") -> Part:
    out = f"{{out}}/{file or f'steps_{size}'}.json"
    command = ("benchmarks.steps", "--models", size, "--seconds", "{seconds}", "--json", out, *options)
    return Part(f"steps {size}", command, seconds, ("timm",))


def _kernels(seconds: float, *options: str) -> Part:
    command = ("benchmarks.kernels", "--seconds", "{seconds}", "--json", "{out}/kernels.json", *options)
    return Part("kernels", command, seconds, ("triton",))


def _loaders(name: str, only: str, seconds: float, *options: str, file: str) -> Part:
    command = ("benchmarks.loaders", "--only", only, "--parts", "views", "--seconds", "{seconds}")
    return Part(name, (*command, "--json", f"{{out}}/{file}.json", *options), seconds)


def _whole(seconds: float, *options: str) -> Part:
    command = ("benchmarks.gpu.winner", "{out}", "--seconds", "{seconds}", *options)
    return Part("end to end", command, seconds, ("timm", "PIL"))


def _longest(seconds: float, model: str, compiled: str) -> Part:
    options = ("--model", model, "--compiled", compiled, "--json", f"{{out}}/longest_{compiled}.json")
    name = "longest kernels" + f", {compiled} compiled" * (compiled != "no")
    return Part(name, ("benchmarks.gpu.longest", *options), seconds, ("timm",))


def _profile(seconds: float, *options: str) -> Part:
    """What the profiler's events cost, which a CPU does not tell."""
    command = ("benchmarks.step.profile_overhead", "--json", "{out}/profile_overhead.json", *options)
    return Part("profile overhead", command, seconds, ("timm", "PIL", "jsonargparse", "rich", "tensorboard"))


def calls() -> dict[str, Call]:
    """The measuring half hour: the most wanted first, so that what comes too late is the least wanted."""
    sdpa = replace(
        _steps("B", 50, "--no-compile", "--rounds", "5", file="steps_sdpa"),
        name="steps B, cuDNN's attention last",
        variables=(("TORCH_CUDNN_SDPA_DEPRIORITIZED", "1"),),
    )
    compiled = _steps("B", 130, "--no-compile", "--compile-blocks", file="steps_compiled")
    return {
        "correctness": Call(
            (
                _part("environment", 30),
                _part("peaks", 30),
                _part("warm", 80),
                _part("waits", 40),
                _part("tests", 150),
            ),
            300,
        ),
        "steps": Call(
            (
                _steps("B", 90, "--no-compile", "--peer-fused"),
                _steps("S", 70, "--no-compile"),
                _steps("L", 90, "--no-compile", "--rounds", "7"),
                _steps("H", 110, "--no-compile", "--rounds", "7"),
                sdpa,
            ),
            400,
        ),
        "kernels": Call((_kernels(120),), 120),
        "loading": Call(
            (
                _part("native", 70),
                _loaders("loaders", RACE, 130, "--count", "2048", file="loaders"),
                _whole(80, "--count", "1024", "--steps", "8"),
                _loaders("windows", "windows decoded,hw_load 0.35", 40, file="loaders_windows"),
            ),
            310,
        ),
        "compiled": Call(
            (
                replace(compiled, name="steps B, blocks compiled"),
                _longest(40, "B", "no"),
                _longest(80, "B", "blocks"),
                _profile(60, "--model", "S", "--batch", "8", "--pairs", "20", "--steps", "10"),
            ),
            300,
        ),
    }


def quick() -> Call:
    """The parts of three minutes."""
    few = ("--quick", "--rounds", "5", "--steps", "3")
    parts = (
        _part("environment", 30),
        _part("peaks", 30),
        *(_steps(size, 40, *few) for size in "BLHS"),
        _kernels(40, "--no-compile", "--rounds", "9"),
        _part("waits", 30),
        _part("native", 60),
        _whole(45, "--count", "512", "--steps", "6"),
    )
    return Call(parts, QUICK_SECONDS)


def tiny() -> Call:
    """Every part, on a CPU, in seconds."""
    once = ("--seconds", "0.1")  # no round after the first
    few: Sequence[str] = ("--batch", "2", "--size", "8", "--classes", "10", "--no-compile", *once)
    loading = ("--count", "8", "--batch", "4", *once)
    parts = (
        _part("environment", 300, True),
        _part("peaks", 300, True),
        _part("warm", 300, True),
        _steps("tiny", 300, "--no-compile", *once),
        _kernels(300, *few),
        _part("waits", 300, True),
        _part("native", 300, True),
        _loaders("loaders", "native", 300, *loading, file="loaders"),
        _whole(300, "--model", "tiny", "--batch", "2", "--count", "48", "--steps", "1", *once),
        replace(_part("tests", 300, True), gpu=True),
        _longest(300, "tiny", "no"),
        _profile(300, "--model", "tiny", "--batch", "2", "--count", "48", "--pairs", "5", "--steps", "1"),
    )
    return Call(parts, TINY_SECONDS)
