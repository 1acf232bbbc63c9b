"""Checks of the machine and its limits."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from pathlib import Path

import torch

from fastsemi.common import hardware
from fastsemi.common.precision import Precision, select_device
from fastsemi.tools.doctor.check import Check

_FILES, _SHARED, _DISK = 1024, 1 << 30, 10 << 30  # files; bytes; bytes


def gpu() -> Check:
    """Whether PyTorch sees it and computes on it."""
    driver = hardware.driver_version()
    if not torch.cuda.is_available():
        if driver is None:
            return Check("GPU", "ok", "none; training runs on the CPU")
        if torch.version.cuda is None:
            cure = "install the CUDA build of PyTorch (https://pytorch.org/get-started)"
            return Check("GPU", "note", f"driver {driver}, but PyTorch is built for the CPU", cure)
        cure = f"update the driver to one for CUDA {torch.version.cuda}, or unset CUDA_VISIBLE_DEVICES"
        return Check("GPU", "note", f"driver {driver}, but PyTorch sees no GPU", cure)
    major, minor = torch.cuda.get_device_capability()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
    found = f"{names}; capability {major}.{minor}, driver {driver or 'unknown'}"
    try:
        torch.zeros(1, device="cuda").add_(1).item()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        cure = f"install a PyTorch whose CUDA build holds sm_{major}{minor}, and a driver that fits it"
        return Check("GPU", "problem", f"{found}; it cannot compute: {reason}", cure)
    return Check("GPU", "ok", found)


def cpu() -> Check:
    """Cores, and the container's limit."""
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count()
    found = f"{hardware.cpu_name()}, {usable} of {there} cores"
    limit = hardware.cpu_limit()
    if limit is not None and limit < usable:
        cure = f"set loader.threads to {max(1, int(limit))}, or give the container more CPU"
        return Check("CPU", "note", f"{found}, but the container may use only {limit:g}", cure)
    return Check("CPU", "ok", found)


def precision(device: str) -> Check:
    """What `precision` auto takes, and why."""
    target = select_device(device)
    dtype = str(Precision.select("auto", target).dtype).removeprefix("torch.")
    name = "the GPU" if target.type == "cuda" else "the CPU"
    reasons = {
        "bfloat16": f"{name} multiplies it natively",
        "float16": f"{name} is older than Ampere and has no native bf16",
        "float32": f"{name} has no instructions for bf16 (AMX or AVX-512 BF16)",
    }
    return Check("precision auto", "ok", f"{dtype}: {reasons[dtype]}")


def shared_memory() -> Check:
    """Processes of one machine exchange gradients through it."""
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:
        cure = "with several GPUs, mount it (docker run --shm-size 8g)"
        return Check("shared memory", "note", "there is no /dev/shm", cure)
    found = f"{free / 2**30:.1f} GiB free in /dev/shm"
    if torch.cuda.device_count() > 1 and free < _SHARED:
        return Check("shared memory", "note", found, "docker run --shm-size 8g, or --ipc host")
    return Check("shared memory", "ok", found)


def open_files() -> Check:
    """The limit of open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _FILES:
        return Check("open files", "note", f"at most {soft}", f"ulimit -n {min(4096, max(soft, hard))}")
    return Check("open files", "ok", f"at most {soft}")


def disk(output: Path) -> Check:
    """Space and rights of the nearest folder above the output that exists."""
    folder = output.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return Check("disk", "problem", f"cannot write in {folder}", "change --output, or its rights")
    free = shutil.disk_usage(folder).free
    found = f"{free / 2**30:,.0f} GiB free for {output}"
    if free < _DISK:
        cure = "free some: a checkpoint of a ViT-B takes 1.4 GB, of a ViT-H 10 GB; or change --output"
        return Check("disk", "note", found, cure)
    return Check("disk", "ok", found)
