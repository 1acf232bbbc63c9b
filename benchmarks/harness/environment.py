"""What a measurement depends on beside the code: machine, driver, versions, commit.

`python -m benchmarks.harness.environment` prints the machine's short name, the folder of its results.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    *("torch", "torchvision", "timm", "numpy", "pillow", "simplejpeg", "triton", "ffcv", "spdl-io"),
    *("spdl-core", "torchcodec", "nvidia-dali-cuda120", "nvidia-dali-cuda130", "semilearn"),
)


def _output(*command: str) -> str | None:
    """What a command prints, or None where there is no such command or it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=30, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _git() -> str | None:
    """The commit, with `+` where code differs from it; None outside a repository.

    Results and documents do not count: what one benchmark writes is no change of what the next one measures.
    """
    sha = _output("git", "rev-parse", "--short=12", "HEAD")
    if not sha:
        return None
    written = (":(top,exclude)benchmarks/results", ":(top,exclude,glob)**/*.md")
    status = _output("git", "status", "--porcelain", "--untracked-files=no", "--", ":(top)", *written)
    return sha + ("+" if status else "")


def hardware() -> dict[str, Any]:
    """CPU with the widest vectors that PyTorch finds in it, usable cores, GPU and driver.

    `name` is short and fit for a folder. CPUs of one name differ by their vectors: virtual machines hide the
    model. Narrower ones than AVX-512, which earlier recordings were made with, are part of the name.
    """
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if gpu else None
    cpu, cores = _cpu(), len(os.sched_getaffinity(0))
    vectors = torch.backends.cpu.get_cpu_capability()
    device = gpu or (cpu if vectors == "AVX512" else f"{cpu} {vectors}")
    name = re.sub(r"[^a-z0-9]+", "-", f"{device} {cores} cores".lower()).strip("-")
    return {"name": name, "cpu": cpu, "vectors": vectors, "cores": cores, "gpu": gpu, "driver": driver}


@cache
def environment() -> dict[str, Any]:
    """Hardware, versions and commit of this process, found once: cores are those it had at the first call."""
    return {"hardware": hardware(), "versions": _versions(), "git": _git()}


if __name__ == "__main__":
    print(hardware()["name"])
