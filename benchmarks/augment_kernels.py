"""Cases of `benchmarks.kernels` for colour jitter and RandAugment on a device."""

from __future__ import annotations
