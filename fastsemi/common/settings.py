"""Number formats by name."""

from __future__ import annotations

from typing import Literal

PrecisionName = Literal["auto", "fp32", "tf32", "bf16", "fp16"]
