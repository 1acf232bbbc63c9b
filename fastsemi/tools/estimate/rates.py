"""Rates that `python -m benchmarks.steps --json FILE` measured on one GPU."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.run.config import Config
from fastsemi.run.order import settings
from fastsemi.stages.names import StageName
from fastsemi.tools.estimate.gpus import Gpu


@dataclass(frozen=True)
class MeasuredRate:
    """A median of the benchmark, on one GPU."""

    images_per_s: float
    gpu: str
    file: Path


def find_rate(config: Config, stage: StageName, gpu: Gpu, files: Iterable[Path]) -> MeasuredRate | None:
    """The rate of a stage's step with every sample kept; None where nothing fits.

    A row fits by what it says about itself, whatever it is called: the stage and the network, whether that
    was compiled, the images of a micro-batch and their size, the number format and the GPU, and that all
    unlabelled images entered the student.

    Args:
        config: The run.
        stage: Which stage.
        gpu: What the run is to go on.
        files: Results to search, in this order.

    Raises:
        UserError: A file is missing or no result of the benchmark.
    """
    wanted = rate_wanted(config, stage, gpu)
    found = None
    for file in files:
        for row in _rows(file):
            said = {**row.get("configuration", {}), **row}
            device = (row.get("hardware") or {}).get("gpu") or ""
            fits = wanted == {key: said.get(key) for key in wanted}
            fits &= said.get("entered") == said.get("unlabelled")
            if fits and re.search(rf"{re.escape(gpu.label)}\b", device):
                found = found or MeasuredRate(float(row["median"]), device, file)
    return found if _is_plain(config) else None


def rate_wanted(config: Config, stage: StageName, gpu: Gpu) -> dict[str, Any]:
    """What a row must say that is to count for a stage."""
    own = settings(config, stage)
    images = own.batch // own.micro_batches
    return {
        "stage": stage,
        "network": config.model.name,
        "compiled": config.compile.enabled,
        "labelled": images,
        "unlabelled": images * getattr(own, "unlabelled_ratio", 0),
        "image_size": config.data.image_size,
        "precision": gpu.precision(config),
    }


def _is_plain(config: Config) -> bool:
    """Whether the network is timm's own, trained whole and without computing anything again."""
    model = config.model
    return not model.args and not model.activation_checkpointing and model.adapt == "full"


def _rows(file: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(file.read_text())
    except OSError as error:
        raise UserError(f"--measured {file} cannot be read: {error.strerror}; check the path") from None
    except ValueError:
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "median" in row for row in rows):
        raise UserError(
            f"--measured {file} is no result of python -m benchmarks.steps --json; give such a file"
        )
    return rows
