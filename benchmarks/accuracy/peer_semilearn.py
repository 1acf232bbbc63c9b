"""FixMatch and FreeMatch of the library semilearn (USB) as peers.

semilearn 0.3.2 is written for CUDA; none of its files is changed. What is changed from outside, for a CPU:

- `aim`, `wandb`, `torchaudio` and `transformers`, which it imports for tracking, sound and text, are empty
  modules where they are not installed; nothing of them runs;
- batches stay where they are (`process_batch`), and its hooks that time by CUDA events, evaluate, save and
  log are taken out; evaluation is fastsemi's own, of the same images, outside of the clock;
- its learning rate falls along its own cosine over seconds of training in place of steps;
- mirror images only where fastsemi's recipe has them.

The network is fastsemi's. Losses, masks, pseudo labels, optimizer, moving average, data set, sampler, crops,
RandAugment and Cutout are semilearn's, in fp32: it knows mixed precision on CUDA only.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from inspect import signature
from types import ModuleType
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.accuracy.cpu_clock import CpuClock
from benchmarks.accuracy.evaluations import Evaluations
from benchmarks.harness.curves import Curve
from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.models.create import create_model
from fastsemi.run.config import Config

Method = Literal["fixmatch", "freematch"]
METHODS: tuple[Method, ...] = ("fixmatch", "freematch")

UNUSED = ("aim", "wandb", "torchaudio", "transformers")
SUBMODULES = ("transformers.file_utils", "transformers.tokenization_utils_base", "transformers.data")

# config/classic_cv/{fixmatch,freematch}/*_cifar10_40_0.yaml of semilearn's repository.
RECOMMENDED: dict[str, Any] = {
    "epoch": 1024,
    "num_train_iter": 1024 * 1024,
    "batch_size": 64,
    "uratio": 7,
    "ulb_loss_ratio": 1.0,
    "ema_m": 0.999,
    "optim": "SGD",
    "lr": 0.03,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "layer_decay": 1.0,
    "clip_grad": 0.0,
    "amp": False,
    "use_cat": True,
    "hard_label": True,
    "T": 0.5,
    "crop_ratio": 0.875,
}
OF_METHOD: dict[Method, dict[str, Any]] = {
    "fixmatch": {"p_cutoff": 0.95},
    "freematch": {"ema_p": 0.999, "ent_loss_ratio": 0.001, "use_quantile": False, "clip_thresh": False},
}
LEFT_OUT = ("EvaluationHook", "CheckpointHook", "TimerHook", "LoggingHook")


class _Unused(ModuleType):
    """A package of which only the names are imported."""

    def __init__(self, name: str):
        super().__init__(name)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def load_semilearn() -> ModuleType:
    """Import semilearn, without what it needs for text, sound and tracking.

    Raises:
        UserError: It is not installed.
    """
    if importlib.util.find_spec("semilearn") is None:
        raise UserError(
            "semilearn is not installed; pip install --no-deps --target DIR semilearn==0.3.2 ruamel.yaml "
            "progress, and put DIR at the end of PYTHONPATH"
        )
    if "semilearn" not in sys.modules:
        missing = {name for name in UNUSED if importlib.util.find_spec(name) is None}
        for name in (*UNUSED, *SUBMODULES):
            if name.split(".")[0] in missing:
                sys.modules[name] = _Unused(name)
    import semilearn.algorithms.fixmatch
    import semilearn.algorithms.freematch

    return semilearn


class Outputs(nn.Module):
    """A timm classifier that answers as networks of semilearn do."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net: Any = net

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """[B, 3, S, S] to the logits [B, C] and the features [B, D] before the classifier."""
        features = self.net.forward_head(self.net.forward_features(images), pre_logits=True)
        return {"logits": self.net.get_classifier()(features), "feat": features}


def train(
    config: Config, data_name: str, method: Method, *, budget: float, every: float, settings: dict[str, Any]
) -> Curve:
    """Train an algorithm of semilearn on the labels, images and network of a configuration.

    Args:
        config: Of fastsemi: data, labels, size and network.
        data_name: Name of the data.
        method: The algorithm.
        budget: CPU seconds of training: all but imports and evaluation.
        every: CPU seconds from one evaluation to the next.
        settings: In place of `RECOMMENDED` ones.

    Returns:
        Top-1 of its moving average and of the network itself.

    Raises:
        UserError: semilearn is not installed.
    """
    semilearn = load_semilearn()
    chosen = {**RECOMMENDED, **OF_METHOD[method], **settings}
    random.seed(config.seed)
    np.random.seed(config.seed)
    torch.manual_seed(config.seed)
    clock, data = CpuClock(), Data(config.data, config.loader)
    try:
        classes, size = len(data.classes), config.data.image_size
        shape = {"num_classes": classes, "img_size": size, "seed": config.seed}
        place = {"num_workers": 0, "distributed": False, "world_size": 1, "rank": 0}
        arguments = semilearn.get_config({"algorithm": method, **chosen, **shape, **place})

        def build(**_: Any) -> Outputs:
            return Outputs(create_model(config.model, num_classes=classes, image_size=size))

        watch = Evaluations(clock, config, data, budget=budget, every=every)
        datasets = _datasets(data, config, method, chosen["crop_ratio"])
        peer = _on_cpu(semilearn.core.utils.ALGORITHMS[method], datasets, watch)
        peer(arguments, build, logger=_Silent()).train()
        told = {"lr": chosen["lr"], "batch": chosen["batch_size"], "ema": chosen["ema_m"]}
        return watch.curve(data_name, method, told)
    finally:
        data.close()


class _Silent:
    def info(self, text: str) -> None:
        """Say nothing."""


def _datasets(data: Data, config: Config, method: str, crop_ratio: float) -> dict[str, Any]:
    """Labelled images and all training images without labels, with the crops of semilearn's `get_cifar`."""
    from semilearn.datasets.augmentation import RandAugment
    from semilearn.datasets.cv_datasets.datasetbase import BasicDataset
    from torchvision import transforms

    size = config.data.image_size
    margin = int(size * (1 - crop_ratio))
    crop: list[Any] = [
        transforms.Resize(size),
        transforms.RandomCrop(size, padding=margin, padding_mode="reflect"),
    ]
    if config.semi.weak.flip:
        crop.append(transforms.RandomHorizontalFlip())
    finish = [transforms.ToTensor(), transforms.Normalize(config.data.mean, config.data.std)]
    weak = transforms.Compose([*crop, *finish])
    strong = transforms.Compose([*crop, RandAugment(3, 5), *finish])

    labelled, everything = data.labelled, data.train
    targets = [int(label) for label in labelled.index.labels[labelled.ids]]
    classes = len(data.classes)
    return {
        "train_lb": BasicDataset(method, _pixels(labelled), targets, classes, weak, False, strong),
        "train_ulb": BasicDataset(method, _pixels(everything), None, classes, weak, True, strong),
        "eval": [],  # `_judge` evaluates
        "test": None,
    }


def _pixels(images: ImageSet) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")) for path in images.index.paths(images.ids)]


def _on_cpu(base: type, datasets: dict[str, Any], watch: Evaluations) -> type:
    """An algorithm of semilearn on the CPU, with given images and a rate that falls over seconds."""

    class OnCpu(base):
        def set_dataset(self) -> dict[str, Any]:
            return datasets

        def set_hooks(self) -> None:
            super().set_hooks()
            self._hooks = [hook for hook in self._hooks if hook.name not in LEFT_OUT]
            self.register_hook(_hook(watch), "Watch", "LOWEST")

        def set_optimizer(self) -> tuple[Any, Any]:
            optimizer, _ = super().set_optimizer()
            return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: watch.rate)

        def process_batch(self, input_args: Any = None, **tensors: Any) -> dict[str, Any]:
            wanted = signature(self.train_step).parameters
            return {name: tensor for name, tensor in tensors.items() if name in wanted}

    return OnCpu


def _hook(watch: Evaluations) -> Any:
    """A hook of semilearn that evaluates and ends the training with the budget."""
    from semilearn.core.hooks import Hook

    class Watch(Hook):
        def after_train_step(self, algorithm: Any) -> None:
            models = {"ema": algorithm.ema_model.net, "network": algorithm.model.net}
            if watch.after_step(models):
                algorithm.it = algorithm.num_train_iter - 1  # the loop ends where its last step is done

    return Watch()
