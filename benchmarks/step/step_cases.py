"""The semi steps that `benchmarks.steps` times: the product's through its own trainer, and the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Literal

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.step.paper_step import PaperSettings, PaperStep, random_batch
from benchmarks.step.step_profile import state_bytes
from benchmarks.step.stepping import Stepping
from benchmarks.step.synthetic import DISTINCT, SyntheticData, mix_config, semi_trainer
from fastsemi.common.precision import Precision
from fastsemi.common.schedule import Duration
from fastsemi.loaders.plan.draws import AugmentConfig
from fastsemi.models.create import create_model, use_fused_attention
from fastsemi.models.settings import ModelConfig
from fastsemi.parallel.shards import blocks
from fastsemi.stages.semi import Semi
from fastsemi.stages.semi_config import SemiConfig
from fastsemi.stages.thresholds.fixed import Fixed
from fastsemi.training.compiled import compile_networks
from fastsemi.training.settings import CompileConfig

RATIO = 5  # unlabelled images per labelled one
Compiled = Literal["no", "blocks", "whole"]
LR = 1e-9  # weights, and so confidences, stay as they are


@dataclass(frozen=True)
class Size:
    """A network and the labelled images of a step, so many that a step fits 80 GB beside its peers."""

    name: str
    model: ModelConfig
    gpu_batch: int
    cpu_batch: int
    image_size: int = 224
    classes: int = 1000
    drop_path: float = 0.1
    keep_tokens: float = 1.0
    label_passes: int = 1
    merge_tokens: int = 0


SIZES = {
    "S": Size("ViT-S/16", ModelConfig("vit_small_patch16_224"), 64, 8),
    "B": Size("ViT-B/16", ModelConfig("vit_base_patch16_224"), 32, 4),
    "L": Size("ViT-L/16", ModelConfig("vit_large_patch16_224"), 16, 2),
    "H": Size("ViT-H/14", ModelConfig("vit_huge_patch14_224", pool="token"), 8, 1),
    "T": Size("ViT-Ti/16", ModelConfig("vit_tiny_patch16_224"), 64, 8),
    "small": Size(  # that of configs/studies/small_vit_digits.yaml
        "ViT of 4 blocks, 16 pixels",
        ModelConfig("vit_tiny_patch16_224", {"patch_size": 4, "embed_dim": 96, "depth": 4, "num_heads": 3}),
        gpu_batch=10,
        cpu_batch=10,
        image_size=16,
        classes=10,
        drop_path=0.0,
    ),
    "lite0": Size(  # that of configs/practical/pretrained_cnn_many.yaml, at 96 pixels
        "EfficientNet-Lite0",
        ModelConfig("tf_efficientnet_lite0", pool="default"),
        gpu_batch=64,
        cpu_batch=4,
        image_size=96,
        classes=10,
        drop_path=0.0,
    ),
    "resnet": Size(  # that of configs/practical/from_scratch_small.yaml
        "ResNet of 4 blocks",
        ModelConfig(
            "resnet18",
            {"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 128], "stem_width": 16, "stem_type": "deep"},
            pool="default",
        ),
        gpu_batch=20,
        cpu_batch=20,
        image_size=32,
        classes=10,
        drop_path=0.0,
    ),
    "tiny": Size(
        "tiny",
        ModelConfig("vit_tiny_patch16_224", {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1}),
        gpu_batch=2,
        cpu_batch=2,
        image_size=16,
        classes=10,
    ),
}


def forward_flops(size: Size) -> float:
    """Floating-point operations of one image's forward pass, a multiply-add counted as two."""
    with torch.device("meta"):
        model = create_model(size.model, num_classes=size.classes, image_size=size.image_size)
        use_fused_attention(model, False)
        with FlopCounterMode(display=False) as counter:
            model.eval()(torch.empty(1, 3, size.image_size, size.image_size))
    return float(counter.get_total_flops())


def semi_config(size: Size, labelled: int) -> SemiConfig:
    """The semi stage without an end, with every pseudo label trusted and weights that stay as they are."""
    return SemiConfig(
        batch=labelled,
        unlabelled_ratio=RATIO,
        length=Duration("100000000 steps"),
        warmup=Duration("1 steps"),
        base_lr=LR,
        min_lr=0.0,
        threshold=0.0,
        drop_path=size.drop_path,
        keep_tokens=size.keep_tokens,
        label_passes=size.label_passes,
        merge_tokens=size.merge_tokens,
        mix=mix_config(),
        labelled_mix=mix_config(),
    )


@dataclass(frozen=True)
class Work:
    """What a step handled."""

    entered: int  # unlabelled images that went through the student
    accepted: float  # fraction of unlabelled images whose loss counts


class ProductStep:
    """The trainer's own update on ready batches.

    Args:
        size: Network and shapes.
        labelled: Labelled images of a step; unlabelled ones are five times as many.
        precision: Device and number format.
        compiled: Compile student and teacher: not, whole, or each of their blocks, which is what sharded
            networks have.
        augment: Colour jitter and RandAugment are part of the step, as in training; else the views come
            augmented, as the peer's do.
    """

    def __init__(self, size: Size, labelled: int, precision: Precision, *, compiled: Compiled, augment: bool):
        self._labelled = labelled
        config = semi_config(size, labelled)
        if not augment:
            plain = AugmentConfig(randaugment="")
            config = replace(config, weak=replace(plain, erase=0.0), strong=plain, augment=plain)
        data = SyntheticData(
            DISTINCT * labelled,
            DISTINCT * RATIO * labelled,
            classes=size.classes,
            image_size=size.image_size,
            device=precision.device,
            batches=DISTINCT * size.label_passes,
        )
        self.trainer = semi_trainer(size.model, config, data, precision, compiled=compiled == "whole")
        stage = self.trainer.stage
        assert isinstance(stage, Semi)
        if compiled == "blocks":
            networks = [
                block for network in (stage.model, *stage.teacher.networks()) for block in blocks(network)
            ]
            compile_networks(networks, CompileConfig(enabled=True), precision.device)
        self.stage, self._precision = stage, precision
        self._stepping = Stepping(self.trainer)
        self._thresholds: dict[float, float] = {0.0: 0.0}

    @torch.no_grad()
    def reject(self, fraction: float) -> None:
        """From now on, this fraction of the samples is rejected: the threshold is put where it does that."""
        if fraction not in self._thresholds:
            best = []
            for _ in range(DISTINCT):
                batch = self._stepping.next_batch()["unlabelled"]
                with self._precision.autocast():
                    confidence = self.stage.pseudo_label(batch).confidence
                assert batch.mix is not None  # the stream of unlabelled images plans it
                best.append(torch.maximum(confidence, confidence[batch.mix.partner]))  # eq. 5
            self._thresholds[fraction] = torch.cat(best).float().quantile(fraction).item()
        rule = self.stage.rule
        assert isinstance(rule, Fixed)
        rule.threshold = self._thresholds[fraction]

    def step(self) -> None:
        """One update of the trainer."""
        self._stepping.step()

    def work(self) -> Work:
        """Of one more step; forgets the metrics so far."""
        network, entered = self.stage.network, []

        def student(images: Tensor) -> Tensor:
            entered.append(len(images) - self._labelled)
            return network(images)

        self.trainer.metrics.read()
        self.stage.network = student  # type: ignore[assignment]
        try:
            self.step()
        finally:
            self.stage.network = network
        return Work(sum(entered), self.trainer.metrics.read()["acceptance"])

    def state_bytes(self) -> int:
        """Bytes held between steps."""
        return state_bytes([self.stage.model, self.stage.teacher], self.trainer.optimizer)

    def close(self) -> None:
        """Let go of the batches."""
        self._stepping.close()


class PeerStep:
    """The paper's step on ready batches; what is rejected costs it as much as the rest, so nothing is.

    Args:
        size: Network and shapes.
        labelled: Labelled images of a step; unlabelled ones are five times as many.
        device: Where it runs.
        fused_attention: Use PyTorch's fused attention.
    """

    def __init__(self, size: Size, labelled: int, device: torch.device, *, fused_attention: bool):
        torch.manual_seed(0)
        self._unlabelled = RATIO * labelled
        with device:  # where its random weights are drawn
            network = create_model(
                size.model, num_classes=size.classes, image_size=size.image_size, drop_path=size.drop_path
            )
        settings = PaperSettings(lr=LR, threshold=0.0)
        self._peer = PaperStep(network, device, settings, fused_attention=fused_attention)
        self._batches = cycle(
            random_batch(
                labelled,
                self._unlabelled,
                classes=size.classes,
                image_size=size.image_size,
                seed=seed,
                pin=device.type == "cuda",
            )
            for seed in range(DISTINCT)
        )

    def step(self) -> None:
        """One update."""
        self._peer.step(next(self._batches))

    def work(self) -> Work:
        """Of the next step: every image enters the student."""
        self.step()
        return Work(self._unlabelled, self._peer.metrics["acceptance"])

    def state_bytes(self) -> int:
        """Bytes held between steps."""
        return state_bytes([self._peer.model, self._peer.teacher], self._peer.optimizer)

    def close(self) -> None:
        """Nothing is open."""


def model_flops(forward: float, labelled: int, entered: int) -> float:
    """Operations of a step: the teacher's pass over unlabelled images, and three for each image trained on.

    The backward pass counts as two forward ones; what is recomputed is not counted.
    """
    return forward * (RATIO * labelled + 3 * (labelled + entered))


def matmul(side: int, device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], object], float]:
    """A matrix product of random numbers, and its operations: the peak that steps are set against."""
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * math.pow(side, 3)
