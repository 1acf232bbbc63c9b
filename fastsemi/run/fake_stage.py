"""The stages of a run on tensors that have shapes and types but no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.packing import planned_arrays
from fastsemi.loaders.plan.types import LoadedBatch
from fastsemi.loaders.stream import Stream
from fastsemi.models.create import use_fused_attention
from fastsemi.run.config import Config
from fastsemi.run.new_stage import new_model, new_stage
from fastsemi.run.shape_kernels import ShapeKernels
from fastsemi.run.trace import StepTrace, feed_norms_fp32, materialise, trace_step
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.names import StageName


class FakeStage:
    """A stage as training builds it, with the micro-batch that it meets first.

    Args:
        config: The run.
        name: Which stage.
        data: Its images, of which none is loaded.
        dtype: Type of autocast.
        fused_attention: Whether attention keeps its [N, N] weights out of memory.

    Attributes:
        stage: Its model and its followers hold fake tensors.
        batch: A micro-batch of each role.
    """

    def __init__(
        self, config: Config, name: StageName, data: Data, *, dtype: torch.dtype, fused_attention: bool
    ):
        self.dtype, self._mode = dtype, FakeTensorMode()
        views = Views(config.data, torch.device("meta"), ShapeKernels(), dtype)
        with views.device:
            model = new_model(config, name, len(data.classes))
            self.stage: Stage = new_stage(config, name, model, data, views, _stand_in(config, name, data))
        self.stage.model.train()
        views.device = torch.device("cpu")  # which fake tensors are on
        self._networks = [self.stage.model, *self.stage.followers()]
        with self._mode:
            materialise(nn.ModuleList(m for m in vars(self.stage).values() if isinstance(m, nn.Module)))
            self.batch: Mapping[str, DeviceBatch] = {
                role: views.to_device(self._loaded(each.stream)) for role, each in self.stage.roles.items()
            }
        for network in self._networks:
            use_fused_attention(network, fused_attention)
            if dtype != torch.float32 and next(network.parameters()).dtype == torch.float32:
                feed_norms_fp32(network)

    def _loaded(self, stream: Stream) -> LoadedBatch:
        plan = stream.plan(0, 0)
        count, size = len(plan.ids), stream.image_size
        images = torch.empty(len(plan.views), count, size, size, 3, dtype=torch.uint8)
        valid = np.ones(count, dtype=bool)
        arrays = planned_arrays(plan, valid)
        tensors: dict[str, torch.Tensor] = {
            name: self._mode.from_tensor(torch.from_numpy(array)) for name, array in arrays.items()
        }
        return LoadedBatch(plan, images, valid, tensors)

    def trace(self) -> StepTrace:
        """Run the stage's own loss, forward and backward; as if no sample were rejected."""
        with self._mode:
            return trace_step(lambda: self.stage.loss(self.batch).loss, self._networks, dtype=self.dtype)


def _stand_in(config: Config, name: StageName, data: Data) -> ImageSet | None:
    """For images that label spreading would label: all unlabelled ones, as if of the first class."""
    if name != "finetune" or not config.finetune.spread_ratio:
        return None
    images = data.unlabelled
    return replace(images, index=replace(images.index, labels=np.zeros_like(images.index.labels)))
