"""The stages of a run on tensors that have shapes and types but no memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes

from fastsemi.kernels.dispatch import Kernels
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.plan.packing import planned_arrays
from fastsemi.loaders.plan.types import LoadedBatch, PlannedBatch
from fastsemi.models.create import use_fused_attention
from fastsemi.run.config import Config
from fastsemi.run.new_stage import new_model, new_stage
from fastsemi.run.shape_kernels import ShapeKernels
from fastsemi.run.trace import StepTrace, feed_norms_fp32, materialise, trace_step
from fastsemi.stages.base import Stage
from fastsemi.stages.inputs import DeviceBatch, Views
from fastsemi.stages.names import StageName

_CPU = torch.device("cpu")


class FakeStage:
    """A stage as training builds it, with the micro-batch that it meets first.

    Args:
        config: The run.
        name: Which stage.
        data: Its images, of which none is loaded.
        dtype: Type of autocast.
        fused_attention: Whether attention keeps its [N, N] weights out of memory.
        device: Which the tensors are on: a CPU, where any PyTorch can compute with them, or a GPU, within
            `pretended_cuda`.
        kernels: Implementation of the device operations; by default what a GPU's allocate.

    Attributes:
        stage: Its model and its followers hold fake tensors.
        modules: All that it holds tensors in.
        networks: The model and its followers.
        views: What the stage prepares batches with.
        image_size: Side of a view in pixels.
        mode: In which all of it is computed with.
        batch: A micro-batch of each role.
    """

    def __init__(
        self,
        config: Config,
        name: StageName,
        data: Data,
        *,
        dtype: torch.dtype,
        fused_attention: bool,
        device: torch.device = _CPU,
        kernels: Kernels | None = None,
    ):
        # Plans are arrays of the host's; a mode that takes them sees them go to the device.
        self.dtype, self.mode = dtype, FakeTensorMode(allow_non_fake_inputs=True)
        views = Views(config.data, torch.device("meta"), kernels or ShapeKernels(), dtype)
        with views.device:
            model = new_model(config, name, len(data.classes))
            self.stage: Stage = new_stage(config, name, model, data, views, _stand_in(config, name, data))
        self.stage.model.train()
        self.views, views.device = views, device
        self.image_size = config.data.image_size
        self.networks = [self.stage.model, *self.stage.followers()]
        with self.mode:
            self.modules = nn.ModuleList(m for m in vars(self.stage).values() if isinstance(m, nn.Module))
            materialise(self.modules, device)
            self.batch: Mapping[str, DeviceBatch] = {
                role: views.to_device(self.loaded(each.stream.plan(0, 0), each.stream.image_size))
                for role, each in self.stage.roles.items()
            }
        for network in self.networks:
            use_fused_attention(network, fused_attention)
            half = dtype != torch.float32 and next(network.parameters()).dtype == torch.float32
            if half and device.type == "cpu":
                feed_norms_fp32(network)

    def loaded(self, plan: PlannedBatch, size: int) -> LoadedBatch:
        """A planned batch as loaders bring it to the device.

        Args:
            plan: What is drawn for it.
            size: Side of its images in pixels.
        """
        count, device = len(plan.ids), self.views.device
        with _disable_current_modes(), self.mode:  # nobody watches a loader
            images = torch.empty(len(plan.views), count, size, size, 3, dtype=torch.uint8, device=device)
            valid = np.ones(count, dtype=bool)
            tensors = {
                name: self.mode.from_tensor(torch.from_numpy(array)).to(device)
                for name, array in planned_arrays(plan, valid).items()
            }
        return LoadedBatch(plan, images, valid, tensors)

    def trace(self) -> StepTrace:
        """Run the stage's own loss, forward and backward; as if no sample were rejected."""
        with self.mode:
            return trace_step(lambda: self.stage.loss(self.batch).loss, self.networks, dtype=self.dtype)


def _stand_in(config: Config, name: StageName, data: Data) -> ImageSet | None:
    """For images that label spreading would label: all unlabelled ones, as if of the first class."""
    if name != "finetune" or not config.finetune.spread_ratio:
        return None
    images = data.unlabelled
    return replace(images, index=replace(images.index, labels=np.zeros_like(images.index.labels)))
