"""The settings that all stages share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from fastsemi.common.errors import UserError
from fastsemi.common.schedule import Duration


@dataclass(frozen=True)
class StageConfig:
    """Length, batch and optimizer of a stage."""

    section: ClassVar[str]  # of the configuration, for messages

    length: Duration = Duration("100 epochs")
    """How long to train: '100 epochs' or '5000 steps'."""
    warmup: Duration = Duration("5 epochs")
    """Linear warm-up of the learning rate, part of length."""
    batch: int = 512
    """Images that the learning rate refers to: in the semi stage the labelled ones."""
    micro_batches: int = 1
    """Into how many equal micro-batches a batch is cut; mixing partners are drawn inside them."""
    base_lr: float = 1e-3
    """Learning rate per 256 images: lr = base_lr * batch / 256."""
    min_lr: float = 1e-6
    """Learning rate at the end of the cosine."""
    rate_at: Literal["end", "start"] = "end"
    """Which rate of the schedule a step has: the one due at its end, so that the first step of the warm-up
    counts and the last step is at min_lr, or the one due at its start, where the warm-up begins with 0."""
    drop_last: bool = False
    """Leave the last, smaller batch of a pass over the images out, and begin each pass with a whole one; in
    the semi stage the labelled images begin anew with each pass over the unlabelled ones. false: no image is
    left out, batches straddle passes."""
    weight_decay: float = 0.05
    """AdamW's weight decay; biases, norms, tokens and position embeddings have none."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's momenta."""
    layer_decay: float = 1.0
    """Factor on the learning rate from each layer to the one below."""
    clip_grad: float | None = None
    """Largest gradient norm; none for no clipping."""
    eval_every: Duration = Duration("1 epochs")
    """How often to evaluate; the end of the stage always is."""
    checkpoint_every: Duration = Duration("1 epochs")
    """How often to save a checkpoint; the end of the stage always is."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        for name in ("length", "eval_every", "checkpoint_every"):
            self.require(name, getattr(self, name).value > 0, "be more than nothing")
        for name in ("min_lr", "weight_decay"):
            self.require(name, 0 <= getattr(self, name) < math.inf, "be finite and not negative")
        clips = self.clip_grad is None or 0 < self.clip_grad < math.inf
        self.require("clip_grad", clips, "be positive and finite, or null")
        self.require("betas", all(0 <= beta < 1 for beta in self.betas), "lie in [0, 1)")
        for name in ("batch", "micro_batches"):
            self.require(name, getattr(self, name) >= 1, "be at least 1")
        self.require("base_lr", 0 < self.base_lr < math.inf, "be positive and finite")
        self.require("layer_decay", 0 < self.layer_decay <= 1, "lie in (0, 1]")

    def require(self, name: str, holds: bool, rule: str) -> None:
        """Refuse the value of a field unless a rule holds.

        Raises:
            UserError: It does not; the message names the field, its value and the rule.
        """
        if not holds:
            raise UserError(f"{self.section}.{name} is {getattr(self, name)}; it must {rule}")

    def require_fractions(self, *names: str) -> None:
        """Refuse values of the named fields outside [0, 1)."""
        for name in names:
            self.require(name, 0 <= getattr(self, name) < 1, "lie in [0, 1)")

    @property
    def peak_lr(self) -> float:
        """Learning rate after warm-up."""
        return self.base_lr * self.batch / 256


@dataclass(frozen=True)
class LabelledStageConfig(StageConfig):
    """What stages that learn from labels share besides: their classifier, and classes of different size."""

    head: Literal["random", "probe"] = "random"
    """What the classifier starts from where no fine-tuning goes before: random weights times
    model.head_init_scale, or logistic regression with self-training on the features of the frozen network."""
    head_views: int = 6
    """With head probe: random views of each image that this self-training learns from too, crops of at least
    half of its area, flipped as often as in augment.flip; 0 for none. Fewer where images times views times
    classes would be over a million."""
    balanced: bool = False
    """Draw labelled images so that each class comes up equally often, those of small classes more often; an
    epoch has as many images as before."""
    logit_adjustment: float = 0.0
    """Factor tau on the logarithm of the classes' shares among the labels, which is added to the logits in
    the loss of labelled images; 0 for none. With 1, predictions are as if all classes were as frequent."""
    image_sizes: tuple[int, ...] = ()
    """Sides of the views in pixels, ascending up to data.image_size, each for an equal share of the stage's
    steps: early steps then cost less. Empty for data.image_size from the first step on."""

    def __post_init__(self) -> None:
        """Refuse impossible values."""
        super().__post_init__()
        self.require("head_views", self.head_views >= 0, "be 0 or more")
        sizes = self.image_sizes
        ascending = all(low < high for low, high in zip((0, *sizes), sizes, strict=False))
        self.require("image_sizes", ascending, "ascend, from 1 pixel on")
        self.require("logit_adjustment", 0 <= self.logit_adjustment < math.inf, "be finite and not negative")
        self.require(
            "logit_adjustment",
            not (self.balanced and self.logit_adjustment),
            f"be 0 where {self.section}.balanced is true, which evens out the same classes",
        )
        self.require(
            "drop_last",
            not (self.balanced and self.drop_last),
            f"be false where {self.section}.balanced is true, which knows no last batch of a pass",
        )
