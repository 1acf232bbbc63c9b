"""Rejected samples never enter the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastsemi.common.errors import UserError


class Compaction:
    """Puts the kept samples first and cuts off most of the rest.

    A rejected sample has no loss, so with per-sample normalisation leaving it out changes no gradient. The
    number of rows is rounded up to an eighth of the batch, so that a compiled network sees few shapes.

    Args:
        keep: [B] bool. The copy of its count to the host starts here and is awaited in `select`, so what is
            launched in between keeps the device busy.
        least: Of the samples that enter, kept or not: some networks take no empty batch.
    """

    def __init__(self, keep: Tensor, least: int = 0):
        self._least = least
        self._order = torch.argsort(~keep, stable=True)  # kept ones first, in their order
        self._bucket = -(-len(keep) // 8)
        self._count = keep.sum().to("cpu", non_blocking=True)
        self._copied: torch.cuda.Event | None = None
        if keep.is_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record()
        self._rows: Tensor | None = None

    def select(self, values: Tensor) -> Tensor:
        """The rows of `values` [B, ...] that enter the student, [n, ...]."""
        if self._rows is None:
            if self._copied:
                self._copied.synchronize()
            count = -(-max(self._least, int(self._count)) // self._bucket) * self._bucket
            self._rows = self._order[:count]
        return values[self._rows]


def skips_rejected(wanted: bool | None, model: nn.Module) -> bool:
    """Whether rejected samples are left out.

    Raises:
        UserError: It is asked for with batch norm.
    """
    has_batch_norm = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    if wanted and has_batch_norm:
        raise UserError(
            "semi.skip_rejected cannot be true for a model with batch norm: its statistics, and so its "
            "gradient, depend on the rejected samples; set it to false"
        )
    return not has_batch_norm if wanted is None else wanted
