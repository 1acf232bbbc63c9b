"""A contrastive term between the student's strong views and the teacher's weak views of the same images."""

from __future__ import annotations

import torch
from torch import Tensor

from fastsemi.kernels.dispatch import Kernels
from fastsemi.stages.pseudo_mixup import Pairs


def contrastive_loss(
    student: Tensor, teacher: Tensor, lam: Tensor, pairs: Pairs, temperature: float, kernels: Kernels
) -> Tensor:
    """Which of the batch's images is it? InfoNCE of van den Oord et al. (2018), equation 4.

    The queries are the student's projections of the strong views, the keys the teacher's of the weak ones, as
    in He et al., "Momentum Contrast" (2020), with the batch in place of a queue. A view mixed of images i and
    j by lam has both as its answer, by lam and 1 - lam. It needs no pseudo labels, so that images count that
    no threshold lets through.

    Args:
        student: [N, P] of unit length.
        teacher: [N, P] of unit length, without gradient.
        lam: [N] share of the first image in each mixed view.
        pairs: Which image was mixed in.
        temperature: Of the similarities.
        kernels: Cross-entropy.

    Returns:
        Its mean, a scalar.
    """
    with torch.autocast(student.device.type, enabled=False):  # which would round
        similar = student.float() @ teacher.float().T / temperature  # [N, N]
    own = torch.arange(len(student), device=student.device)
    ones = torch.ones_like(lam)
    return kernels.two_label_cross_entropy(
        similar, own, pairs.partner, lam, smoothing=0.0, weight=ones
    ).mean()
