"""The semi step as the paper's own code does it, written from the paper's description: the peer of `steps`.

What it has in common with that code, and what the product does otherwise:

- Images arrive normalised, in fp32, from the workers that have augmented and erased them.
- Labelled and unlabelled images go through the student in two passes; every sample goes, and rejected ones
  are masked in the loss.
- Unlabelled images are mixed one by one in a Python loop, by weights that the host reads from the device.
- Targets are dense [B, C] distributions.
- On a GPU matrix products run in fp16 under autocast with loss scaling, on a CPU everything in fp32.
- Attention is written out (scores, softmax, product); `fused_attention` uses PyTorch's fused one instead.
- AdamW, gradient norm and moving average go parameter by parameter or by PyTorch's defaults.
- The host waits for a GPU eleven times a step: to read the mixing weights and to send them back, for the
  loss, the scaler, the gradient norm, five more metrics, and the end of the step.
"""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastsemi.common.spans import record
from fastsemi.models.create import use_fused_attention
from fastsemi.training.optim import parameter_groups, set_lr


@dataclass(frozen=True)
class PaperBatch:
    """What the workers deliver, on the host."""

    labelled: Tensor  # [Nl, 3, S, S] float32
    labels: Tensor  # [Nl] int64
    weak: Tensor  # [Nu, 3, S, S] float32
    strong: Tensor  # [Nu, 3, S, S] float32
    truth: Tensor  # [Nu] int64, used for metrics alone


@dataclass(frozen=True)
class PaperSettings:
    """Of section 4 and table 13."""

    lr: float
    threshold: float
    weight_decay: float = 0.05
    layer_decay: float = 0.75
    smoothing: float = 0.1
    loss_weight: float = 5.0
    momentum: float = 0.9999
    mixup: float = 0.8
    cutmix: float = 1.0


def random_batch(
    labelled: int, unlabelled: int, *, classes: int, image_size: int, seed: int, pin: bool
) -> PaperBatch:
    """Noise of the right shapes."""
    g = torch.Generator().manual_seed(seed)

    def pixels(count: int) -> Tensor:
        return torch.randn(count, 3, image_size, image_size, generator=g, pin_memory=pin)

    def labels(count: int) -> Tensor:
        return torch.randint(classes, (count,), generator=g, pin_memory=pin)

    return PaperBatch(
        pixels(labelled), labels(labelled), pixels(unlabelled), pixels(unlabelled), labels(unlabelled)
    )


class PaperStep:
    """Student, teacher and optimizer of the peer.

    Args:
        model: The student; the teacher starts as its copy.
        device: Where it runs.
        settings: Hyper-parameters.
        fused_attention: Use PyTorch's fused attention.
    """

    def __init__(
        self,
        model: nn.Module,
        device: torch.device,
        settings: PaperSettings,
        *,
        fused_attention: bool = False,
    ):
        self.settings, self._device = settings, device
        self._amp = device.type == "cuda"
        self.model = model.to(device).train()
        self.teacher = copy.deepcopy(self.model).eval().requires_grad_(False)
        for network in (self.model, self.teacher):
            use_fused_attention(network, fused_attention)
        groups = parameter_groups(
            self.model, weight_decay=settings.weight_decay, layer_decay=settings.layer_decay
        )
        self.optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999))
        self._scaler = torch.amp.GradScaler(device.type, enabled=self._amp)
        self._random = random.Random(0)
        self.metrics: dict[str, float] = {}

    def step(self, host: PaperBatch) -> None:
        """One update."""
        set_lr(self.optimizer, self.settings.lr)
        with record("copy"):
            batch = PaperBatch(*(t.to(self._device, non_blocking=True) for t in vars(host).values()))
        with record("teacher"), torch.no_grad():
            with self._autocast():
                logits = self.teacher(batch.weak)
            probability = logits.float().softmax(dim=-1)  # [Nu, C]
            confidence, label = probability.max(dim=-1)
        classes = probability.shape[1]
        with record("mix"):
            labelled, labelled_target = self._mix_labelled(batch.labelled, self._dense(batch.labels, classes))
            mixed, target, best = self._mix_unlabelled(batch.strong, self._dense(label, classes), confidence)
            mask = best.ge(self.settings.threshold).float()  # [Nu]
        with record("student"), self._autocast():
            labelled_logits = self.model(labelled)
            unlabelled_logits = self.model(mixed)
        with record("loss"):
            labelled_loss = self._cross_entropy(labelled_logits, labelled_target).mean()
            unlabelled_loss = (self._cross_entropy(unlabelled_logits, target) * mask).mean()
            loss = labelled_loss + self.settings.loss_weight * unlabelled_loss
            value = loss.item()
            if value != value:
                raise RuntimeError("the loss is not a number")
        with record("backward"):
            self._scaler.scale(loss).backward()
        with record("optimizer"):
            norm = self._update()
        with record("ema"):
            self._average()
        with record("metrics"):
            right = label.eq(batch.truth).float()
            self.metrics = {
                "loss": value,
                "loss_labelled": labelled_loss.item(),
                "loss_unlabelled": unlabelled_loss.item(),
                "acceptance": mask.mean().item(),
                "confidence": confidence.mean().item(),
                "pseudo_label_accuracy": (right * mask).sum().div(mask.sum().clamp(min=1)).item(),
                "grad_norm": norm,
            }
            if self._device.type == "cuda":
                torch.cuda.synchronize()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self._device.type, torch.float16, enabled=self._amp)

    def _dense(self, label: Tensor, classes: int) -> Tensor:
        """Smoothed one-hot distributions, [B, C]."""
        s = self.settings.smoothing
        off = torch.full((len(label), classes), s / classes, device=label.device)
        return off.scatter_(1, label[:, None], 1 - s + s / classes)

    def _draw_box(self, size: int, lam: float) -> tuple[int, int, int, int, float]:
        """A clipped box of area 1 - lam and the weight that is left: left, top, right, bottom, lam."""
        half = int(size * (1 - lam) ** 0.5) // 2
        x, y = self._random.randrange(size), self._random.randrange(size)
        left, right = max(x - half, 0), min(x + half, size)
        top, bottom = max(y - half, 0), min(y + half, size)
        return left, top, right, bottom, 1 - (right - left) * (bottom - top) / size**2

    def _mix_labelled(self, images: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Mixup or cutmix of the whole batch with its reverse, by one weight."""
        cutmix = self._random.random() < 0.5
        alpha = self.settings.cutmix if cutmix else self.settings.mixup
        lam = self._random.betavariate(alpha, alpha)
        other = images.flip(0)
        if cutmix:
            left, top, right, bottom, lam = self._draw_box(images.shape[-1], lam)
            images = images.clone()
            images[:, :, top:bottom, left:right] = other[:, :, top:bottom, left:right]
        else:
            images = images * lam + other * (1 - lam)
        return images, target * lam + target.flip(0) * (1 - lam)

    def _mix_unlabelled(
        self, images: Tensor, target: Tensor, confidence: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Equations 4 and 5, one sample at a time, with the batch in reverse as partners."""
        count, size = len(images), images.shape[-1]
        weights = (confidence / (confidence + confidence.flip(0))).tolist()
        mixed = images.clone()
        for i in range(count):
            j, lam = count - 1 - i, weights[i]
            if self._random.random() < 0.5:
                left, top, right, bottom, lam = self._draw_box(size, lam)
                mixed[i, :, top:bottom, left:right] = images[j, :, top:bottom, left:right]
            else:
                mixed[i] = images[i] * lam + images[j] * (1 - lam)
            weights[i] = lam
        lam_of = torch.tensor(weights, device=images.device)[:, None]
        soft = target * lam_of + target.flip(0) * (1 - lam_of)
        return mixed, soft, torch.maximum(confidence, confidence.flip(0))

    @staticmethod
    def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
        return torch.sum(-target * torch.log_softmax(logits.float(), dim=-1), dim=-1)

    def _update(self) -> float:
        self._scaler.unscale_(self.optimizer)
        norms = [p.grad.norm(2) for p in self.model.parameters() if p.grad is not None]
        norm = torch.stack(norms).norm(2).item()
        self._scaler.step(self.optimizer)
        self._scaler.update()
        self.optimizer.zero_grad()
        return norm

    @torch.no_grad()
    def _average(self) -> None:
        m = self.settings.momentum
        for ours, theirs in zip(
            self.teacher.state_dict().values(), self.model.state_dict().values(), strict=True
        ):
            ours.copy_(ours * m + theirs * (1 - m))
