"""Rates of the semi step that `python -m benchmarks.steps` measured."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastsemi.common.errors import UserError
from fastsemi.run.config import Config, StageName
from fastsemi.tools.estimate.gpus import Gpu

# The benchmark's networks by timm's names.
_NETWORKS = {
    "vit_small_patch16_224": "ViT-S/16",
    "vit_base_patch16_224": "ViT-B/16",
    "vit_large_patch16_224": "ViT-L/16",
    "vit_huge_patch14_224": "ViT-H/14",
}


@dataclass(frozen=True)
class MeasuredRate:
    """A median of the benchmark, on one GPU."""

    images_per_s: float
    gpu: str
    file: Path


def find_rate(config: Config, stage: StageName, gpu: Gpu, files: Iterable[Path]) -> MeasuredRate | None:
    """The rate of a stage's step with every sample kept; None where nothing fits.

    Network, size of the images, precision, GPU and whether the network is compiled must be those of the
    benchmark; the batch of a step may differ.

    Args:
        config: The run.
        stage: Only the semi step is measured.
        gpu: What the run is to go on.
        files: Results to search, in this order.

    Raises:
        UserError: A file is missing or no result of the benchmark.
    """
    network = _NETWORKS.get(config.model.name)
    plain = not config.model.args and not config.model.activation_checkpointing
    if stage != "semi" or network is None or not plain:
        return None
    case = "kept, compiled" if config.compile.enabled else "kept"
    for file in files:
        for row in _rows(file):
            ran = row.get("configuration", {})
            same = (row.get("model"), row.get("case")) == (network, case)
            same &= ran.get("image_size") == config.data.image_size
            same &= ran.get("precision") == gpu.precision(config)
            device = (row.get("hardware") or {}).get("gpu") or ""
            if same and re.search(rf"{re.escape(gpu.label)}\b", device):
                return MeasuredRate(float(row["median"]), device, file)
    return None


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
