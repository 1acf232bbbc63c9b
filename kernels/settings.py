"""Which implementation of the kernels may be asked for."""

from __future__ import annotations

from typing import Literal

KernelKind = Literal["auto", "triton", "torch"]
