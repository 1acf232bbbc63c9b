"""An exported network judged from the original files, beside PyTorch and the loader."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fastsemi.common.precision import Precision
from fastsemi.loaders.data import Data
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.run.config import Config
from fastsemi.stages.inputs import Views
from fastsemi.tools.export.feed import preprocess

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True)
class Agreement:
    """How an exported network, fed from files, compares with the run's, fed by the loader."""

    images: int
    same: int
    """With the same class first."""
    difference: float
    """Largest of a logit, relative to the largest logit."""

    def __str__(self) -> str:
        return (
            f"{self.images:,} evaluation images read from their files by Pillow: the same class in "
            f"{self.same:,}, largest difference {self.difference:.1e} of the largest logit"
        )


@torch.no_grad()
def from_files(
    config: Config, model: nn.Module, exported: Network, terms: Mapping[str, Any], count: int
) -> Agreement | None:
    """Compare on evaluation images; None where packed pixels have no files.

    Args:
        config: The run.
        model: Its network, fp32 on the CPU.
        exported: [B, 3, S, S] to logits [B, C].
        terms: Of `contract`.
        count: How many images, spread over the set; the readable ones of them are compared.

    Raises:
        UserError: The images are not there.
    """
    device = torch.device("cpu")
    views, precision = Views(config.data, device), Precision.select("fp32", device)
    data = Data(config.data, config.loader, device=device)
    images = same = 0
    largest = scale = 0.0
    try:
        source, ids = data.val.source, data.val.ids
        if source.is_raw or not len(ids):
            return None
        ids = ids[np.unique(np.linspace(0, len(ids) - 1, min(count, len(ids))).astype(int))]
        plans = evaluation_batches(
            data.val.index, ids, config.eval_batch, config.data.eval_crop, config.data.resized_to
        )
        with data.load(data.val, plans, allow_empty=True) as loader:
            for batch in loader:
                valid = np.asarray(batch.valid, bool)
                pixels = views.normalise(views.to_device(batch).images[0])
                with precision.autocast():
                    expected = model(pixels).numpy()[valid]
                for i, wanted in zip(batch.plan.ids[valid].tolist(), expected, strict=True):
                    content = source.read_one(i)
                    found = exported(preprocess(io.BytesIO(content), terms)[None])[0]
                    same += int(found.argmax() == wanted.argmax())
                    largest = max(largest, float(np.abs(found - wanted).max()))
                    scale = max(scale, float(np.abs(wanted).max()))
                images += int(valid.sum())
    finally:
        data.close()
    return Agreement(images, same, largest / max(scale, 1e-6))
