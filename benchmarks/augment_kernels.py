"""Cases of `benchmarks.kernels` for colour jitter and RandAugment on a device."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import triton
from torch import Tensor

from benchmarks.harness import Case, DeviceTimer, Timer
from benchmarks.peers import FILL, JITTER, RANDAUGMENT, v2_transforms
from fastsemi.kernels.augment import tiles
from fastsemi.kernels.augment_plan import schedule
from fastsemi.kernels.dispatch import Kernels
from fastsemi.loaders.augment import augment_in_torch, planned_layers
from fastsemi.loaders.batch import ViewPlan
from fastsemi.loaders.plan import AugmentConfig, View, plan_view
