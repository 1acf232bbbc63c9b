"""Checks of the installed software."""

from __future__ import annotations

import importlib.util
import io
import platform
import re
import shutil
import sys
from importlib import metadata

import numpy as np
import torch
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.common.precision import select_device
from fastsemi.kernels.dispatch import select as select_kernels
from fastsemi.loaders.engines.choose import resolve, unavailable
from fastsemi.loaders.engines.native_operator import CURE, Operator, available
from fastsemi.tools.doctor.check import Check
from fastsemi.training.optim import create_optimizer

_OLDEST_PYTHON, _TORCH = (3, 11), ((2, 11), (2, 16))


def version(package: str) -> str | None:
    """The installed version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:2])


def python() -> Check:
    """Version, and which one runs."""
    found = f"{platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Check("Python", "problem", found, "install Python 3.11 or newer")
    return Check("Python", "ok", found)


def pytorch() -> Check:
    """Version, and what it was built for."""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU only"
    found = f"{torch.__version__}, built for {built}"
    low, high = _TORCH
    if not low <= _numbers(torch.__version__) < high:
        span = f"torch>={low[0]}.{low[1]},<{high[0]}.{high[1]}"
        return Check("PyTorch", "problem", found, f"pip install '{span}'")
    return Check("PyTorch", "ok", found)


def packages() -> Check:
    """Those that the installed package requires without an extra."""
    try:
        lines = metadata.requires("fastsemi") or []
    except metadata.PackageNotFoundError:
        found = "fastsemi runs from its folder and is not installed"
        return Check("required packages", "note", found, "pip install -e . in it")
    names = [re.split(r"[^\w.-]", line)[0] for line in lines if "extra ==" not in line]
    missing = [name for name in names if version(name) is None]
    if missing:
        found = f"missing: {', '.join(missing)}"
        return Check("required packages", "problem", found, f"pip install {' '.join(missing)}")
    return Check("required packages", "ok", f"all {len(names)} there, timm {version('timm')}")


def triton(device: str) -> Check:
    """Whether it runs, where there is a GPU for it."""
    installed, target = version("triton"), select_device(device)
    if target.type == "cpu":
        return Check("Triton", "ok", f"{installed or 'not installed'}; a CPU runs the PyTorch kernels")
    try:
        select_kernels("triton", target)
    except UserError as error:
        found, _, cure = str(error).partition("; ")
        return Check("Triton", "note", found, cure)
    return Check("Triton", "ok", f"{installed}, a trial kernel ran")


def native() -> Check:
    """A JPEG through the operator; where that is missing, what its build lacks."""
    reason = available()
    if reason is None:
        return Check("native operator", "ok", f"built; runs with {_trial()} kernels")
    found, _, cure = reason.partition("; ")
    compiler = next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        found += ", and there is no C++ compiler"
    return Check("native operator", "note", f"{found}: the slower form runs", cure)


def _trial() -> str:
    """Decode a small JPEG; returns the name of the kernels that did it, which is the CPU's SIMD level.

    Raises:
        UserError: It failed.
    """
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG")
    operator, out = Operator(1), np.zeros((1, 1, 8, 8, 3), np.uint8)
    try:
        window, flip = np.array([[[0, 0, 16, 16]]], np.int32), np.zeros((1, 1), bool)
        ticket = operator.submit([file.getvalue()], window, flip, out, 256, np.zeros((1, 2), np.int32))
        (reason,) = operator.wait(ticket, 30)
        if reason is not None or not out[..., 0].all():
            raise UserError(f"the native operator gives wrong pixels ({reason}); {CURE}")
        return str(operator.kernels)
    finally:
        operator.close()


def dali() -> Check:
    """Whether the engine `dali` can run."""
    reason = unavailable().get("dali")
    if reason is None:
        return Check("DALI", "ok", str(version("nvidia-dali-cuda130") or version("nvidia-dali-cuda120")))
    found, _, cure = reason.partition("; ")
    if not torch.cuda.is_available():
        return Check("DALI", "ok", "not installed; of use with a GPU")
    return Check("DALI", "note", found, cure)


def ffcv() -> Check:
    """Whether the engine `ffcv` can run."""
    reason = unavailable().get("ffcv")
    if reason is None:
        return Check("FFCV", "ok", str(version("ffcv")))
    if version("ffcv") is None:
        return Check("FFCV", "ok", "not installed; only the engine ffcv needs it")
    found, _, cure = reason.partition("; ")
    return Check("FFCV", "note", found, cure)


def apex() -> Check:
    """PyPI's apex is something else, and an installed one may lack its CUDA kernels."""
    if importlib.util.find_spec("apex") is None:
        return Check("Apex", "ok", "not installed; the default optimizer, fused, does not need it")
    model = torch.nn.Linear(1, 1, device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        create_optimizer(model, weight_decay=0.0, layer_decay=1.0, betas=(0.9, 0.999), backend="apex")
    except UserError as error:
        found, _, cure = str(error).removeprefix("optimizer is apex, but ").partition("; ")
        return Check("Apex", "note", found, cure)
    return Check("Apex", "ok", "NVIDIA's, with FusedAdam")


def parquet() -> Check:
    """Whether Parquet files can be read."""
    installed = version("pyarrow")
    if installed is None:
        return Check("Parquet", "ok", "pyarrow is not installed; Parquet files need 'fastsemi[parquet]'")
    return Check("Parquet", "ok", f"pyarrow {installed}")


def engine(device: str) -> Check:
    """What `loader.engine` auto takes, and why."""
    name, reason = resolve("auto", select_device(device).type == "cuda")
    return Check("engine auto", "ok", f"{name}: {reason.partition('; ')[0]}")
