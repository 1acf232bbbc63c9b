"""The network of a finished run, alone or beside the images it is evaluated on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from fastsemi.common.errors import UserError
from fastsemi.common.precision import Precision, select_device
from fastsemi.loaders.data import Data
from fastsemi.models.create import use_fused_attention
from fastsemi.models.timm_folder import open_timm
from fastsemi.parallel import processes
from fastsemi.run.config import Config, load
from fastsemi.run.engine import read_as_trained
from fastsemi.run.folder import RunFolder
from fastsemi.stages.inputs import Views


def _require_untrained(config: Config) -> None:
    """Refuse held-out labels that are not those of the run: it may have been trained on them."""
    file = RunFolder(config.output).config
    trained = load([file], []).data if file.is_file() else config.data
    mine, theirs = (replace(data.labels, file=None) for data in (config.data, trained))
    if config.data.val is None and not (config.data.evaluates and mine == theirs):
        what = "has no images to evaluate on" if trained == config.data else "held other labels out, or none"
        raise UserError(f"{config.output} {what}; name a folder of others below data.root as --data.val")


def load_trained(config: Config, precision: Precision) -> tuple[nn.Module, tuple[str, ...]]:
    """The network of a finished run and its class names.

    Args:
        config: The run.
        precision: Where and how it will be run.

    Raises:
        UserError: The run has no network yet.
    """
    run = RunFolder(config.output)
    folder = run.model
    run.require_model()
    model = open_timm(folder).to(precision.device).eval()
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    names, size = tuple(settings["label_names"]), settings["input_size"][-1]
    if size != config.data.image_size:
        raise UserError(
            f"data.image_size is {config.data.image_size}, but the model in {folder} takes {size}; use that"
        )
    use_fused_attention(model, precision.fused_attention)
    precision.apply()
    return model, names


@dataclass(frozen=True)
class Trained:
    """The network of a finished run beside its evaluation images."""

    model: nn.Module
    data: Data
    views: Views
    precision: Precision


@contextmanager
def trained_run(config: Config) -> Iterator[Trained]:
    """Open the network of a finished run and the images to evaluate it on within the block.

    Raises:
        UserError: No trained network, other classes than it knows, or no images.
    """
    device = select_device(processes.local_device(config.device))
    precision = Precision.select(config.precision, device)
    model, names = load_trained(config, precision)
    data = Data(config.data, config.loader, device=device)
    try:
        read_as_trained(config, data)
        with processes.one_per_node_first():  # which indexes the images
            images = data.val
        if names != data.classes:
            raise UserError(
                f"the model of {config.output} knows other classes than {data.config.root} "
                f"({len(names)} and {len(data.classes)}); give the data it was trained for"
            )
        _require_untrained(config)
        if not len(images.ids):
            raise UserError(f"{images.index.root} holds no images to evaluate on; add some")
        yield Trained(model, data, Views(config.data, device), precision)
    finally:
        data.close()


def temperature(model: nn.Module) -> float:
    """What divides the logits of a network of `load_trained` before the softmax."""
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return settings["temperature"]
