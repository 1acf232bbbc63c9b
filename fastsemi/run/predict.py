"""Classify images with the network of a run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.common.job import WHOLE, Job
from fastsemi.common.precision import Precision, select_device
from fastsemi.loaders.bad_images import Unreadable
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.in_memory import Picture
from fastsemi.loaders.sources.named import Part
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.parallel import processes
from fastsemi.run.config import Config
from fastsemi.run.engine import read_as_trained
from fastsemi.run.prediction_file import Row
from fastsemi.run.trained import load_trained, temperature
from fastsemi.stages.inputs import Views
from fastsemi.training.broken import share_broken

NAMED = 5  # broken images that are named


@dataclass(frozen=True)
class Pictures:
    """Pictures that a program holds, and what each is called."""

    held: Sequence[Picture]
    names: Sequence[str]


@dataclass(frozen=True)
class Classified:
    """Images with the probability of each class."""

    paths: list[str]
    """[B] of files; of a packed image its file and name."""
    probabilities: NDArray[np.float32]
    """[B, C] of the softmax of the logits divided by the model's temperature."""

    def best(self, classes: Sequence[str], count: int) -> list[Row]:
        """Path, and its likeliest classes with their confidence; of equals the first class comes first.

        Args:
            classes: Their names, C of them.
            count: How many of an image.
        """
        order = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]  # [B, count]
        confidence = np.take_along_axis(self.probabilities, order, axis=1)
        return [
            (path, [(classes[c], o) for c, o in zip(of, os, strict=True)])
            for path, of, os in zip(self.paths, order.tolist(), confidence.tolist(), strict=True)
        ]


class Predictor:
    """Classifies images with the network of a finished run, which is opened once.

    Args:
        config: The run.

    Raises:
        UserError: It has no network.

    Attributes:
        network: In evaluation mode, on the run's device.
        classes: Their names, C of them.
        temperature: Divides the logits.
        unreadable: The broken images of the last call of `classify`.
    """

    def __init__(self, config: Config):
        self._config, self._device = config, select_device(processes.local_device(config.device))
        self._precision = Precision.select(config.precision, self._device)
        self.network, self.classes = load_trained(config, self._precision)
        self.temperature = temperature(self.network)
        self._views = Views(config.data, self._device)
        self.unreadable = Unreadable()

    def classify(self, parts: Sequence[Part | Pictures], job: Job = WHOLE) -> Iterator[Classified]:
        """Classify images; of several processes each classifies its share of every batch.

        Args:
            parts: From `named_images`, or pictures.
            job: Which share of each part.

        Yields:
            Batches of the readable images, in the order of the parts and of their sources, which for a folder
            is sorted. All of them in rank 0, none in other processes, which must iterate too.

        Raises:
            UserError: A part holds no images, or no image can be read, which a share need not hold.
        """
        bad = self.unreadable = Unreadable()
        found = 0
        loader = replace(self._config.loader, jpeg_index_gb=0.0)  # no image comes again
        for part in parts:
            data = Data(self._config.data, loader, device=self._device, bad=bad)
            try:
                read_as_trained(self._config, data)
                with processes.one_per_node_first():  # which indexes the images
                    images = _open(data, part)
                images = replace(images, ids=images.ids[job.share(len(images.ids))])
                for batch in self._classify(data, images):
                    found += len(batch.paths)
                    yield batch
            finally:
                data.close()
        share_broken(bad)
        if job.count == 1 and not processes.from_main(found):
            such = f", such as {bad.first.path}: {bad.first.reason}" if bad.first else ""
            raise UserError(
                f"none of the images can be read ({len(bad.paths)} broken{such}); repair them, or give others"
            )

    @torch.no_grad()
    def _classify(self, data: Data, images: ImageSet) -> Iterator[Classified]:
        batch, world = self._config.eval_batch, processes.world()
        mine = images.ids[processes.rank() :: world]
        plans = evaluation_batches(
            images.index, mine, batch, self._config.data.eval_crop, self._config.data.resized_to
        )
        nothing = np.zeros(0, np.int64), np.zeros((0, len(self.classes)), np.float32)
        with data.load(images, plans, allow_empty=True) as loader:
            for _ in range(0, len(images.ids), world * batch):
                loaded = next(loader, None)
                rows = nothing
                if loaded is not None:
                    pixels = self._views.normalise(self._views.to_device(loaded).images[0])
                    with self._precision.autocast():
                        logits = self.network(pixels)
                    p = (logits.float() / self.temperature).softmax(1).cpu().numpy()
                    rows = loaded.plan.ids[loaded.valid], p[loaded.valid]
                if parts := processes.to_main(rows):
                    ids, found = (np.concatenate(each) for each in zip(*parts, strict=True))
                    order = ids.argsort()
                    yield Classified([images.source.name(int(i)) for i in ids[order]], found[order])


def _open(data: Data, part: Part | Pictures) -> ImageSet:
    if isinstance(part, Pictures):
        return data.open_pictures(part.held, part.names)
    return data.open_unlabelled(part) if isinstance(part, str) else data.open_files(part)


def say_unreadable(bad: Unreadable) -> str:
    """How many images were left out, and some of their names, in words; nothing where all were read."""
    broken = sorted(bad.paths)
    if not broken:
        return ""
    names = ", ".join(broken[:NAMED]) + (", ..." if len(broken) > NAMED else "")
    those = "1 image" if len(broken) == 1 else f"{len(broken)} images"
    return f"{those} left out, which cannot be read: {names}"
