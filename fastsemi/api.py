"""fastsemi from Python, with the names and the messages of its command line: `import fastsemi`."""

from __future__ import annotations

import itertools
import numbers
import os
import signal
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fastsemi.commands.init import write_configuration
from fastsemi.commands.inputs import require_inputs
from fastsemi.commands.train import train_stages
from fastsemi.common.errors import Interrupted, UserError
from fastsemi.common.threads import let_threads_sleep
from fastsemi.run.config import Config
from fastsemi.run.folder import RunFolder
from fastsemi.run.python_keys import Source, StrPath, from_python, given_by_hand

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

    from fastsemi.loaders.in_memory import Picture
    from fastsemi.loaders.sources.named import Part
    from fastsemi.probing.probe import Baseline
    from fastsemi.run.evaluation import Evaluation
    from fastsemi.run.predict import Pictures

let_threads_sleep()

__all__ = ["Model", "Predictions", "UserError", "init", "load", "probe", "train"]


def train(config: Source, **keys: Any) -> Model:
    """Train the stages of a configuration that are not finished yet, as `fastsemi train`.

    An interrupted call goes on where it stopped when it is repeated.

    Args:
        config: What to train.
        **keys: Keys of the configuration that win over it, nested or dotted: `semi={"threshold": 0.6}` and
            `**{"semi.threshold": 0.6}` are the same.

    Returns:
        The network that the run leaves.

    Raises:
        UserError: Wrong input, in the words of the command line.
        KeyboardInterrupt: Ctrl-C, or the stop of a notebook; what was reached is saved.
        SystemExit: Another signal; what was reached is saved.
    """
    resolved = from_python(config, keys)
    require_inputs(resolved, resolved.stages)
    try:
        train_stages(resolved, resolved.stages, by_hand=given_by_hand(config, keys))
    except Interrupted as stop:
        if stop.number == signal.SIGINT:
            raise KeyboardInterrupt(f"{stop}; the same call resumes there") from None
        raise SystemExit(stop.exit_code) from None
    return Model(resolved)


def load(run: StrPath, **keys: Any) -> Model:
    """The network of a finished run.

    Args:
        run: Its directory.
        **keys: As of `train`: what differs from the run's configuration, such as `device="cpu"`.

    Raises:
        UserError: The directory holds no run, or no network.
    """
    folder = RunFolder(_path(run, "run"))
    folder.require_run()
    return Model(from_python(folder.config, {**keys, "output": str(run)}))


def probe(config: Source, **keys: Any) -> list[Baseline]:
    """What simple classifiers get from the labels of a configuration, as `fastsemi probe`.

    Args:
        config: Whose labels and images.
        **keys: As of `train`.

    Returns:
        Classifiers with their top-1 and balanced accuracy in percent, the best one first.

    Raises:
        UserError: Wrong input, or labels of one class.
    """
    resolved = from_python(config, keys)
    require_inputs(resolved, resolved.stages)
    from fastsemi.run.baseline import judge_run

    return judge_run(resolved).rows


def init(
    folder: StrPath,
    *,
    output: StrPath | None = None,
    unlabeled: StrPath | None = None,
    per_class: int | None = None,
    labels: StrPath | None = None,
    recipe: str | None = None,
    force: bool = False,
) -> Path:
    """Look at a folder of pictures and write a configuration for it, as `fastsemi init`.

    Args:
        folder: Holds train/CLASS/IMAGE, or CLASS/IMAGE.
        output: What to write; by default FOLDER.yaml in the working directory.
        unlabeled: Folder of pictures without classes.
        per_class: How many of each class count as labelled; by default all.
        labels: File that lists the labelled images.
        recipe: One of configs/practical/, without its ending; by default what fits.
        force: Whether to replace a configuration that is there.

    Returns:
        The configuration, for `train`.

    Raises:
        UserError: The folder is of no known layout, or `output` cannot be written.
    """
    if recipe is not None and not isinstance(recipe, str):
        raise UserError(f"recipe is {recipe!r}; give the name of one")
    written, lines = write_configuration(
        _path(folder, "folder"),
        output=None if output is None else _path(output, "output"),
        unlabeled=None if unlabeled is None else _path(unlabeled, "unlabeled"),
        per_class=None if per_class is None else _whole(per_class, "per_class"),
        labels=None if labels is None else _path(labels, "labels"),
        recipe=recipe,
        force=force,
    )
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return written


class Model:
    """The network of a finished run.

    Args:
        config: The run.

    Raises:
        UserError: It has no network.
    """

    def __init__(self, config: Config):
        RunFolder(config.output).require_model()
        self.config = config

    def __repr__(self) -> str:
        return f"<fastsemi.Model {self.config.model.name} of {self.config.output}>"

    @cached_property
    def _predictor(self) -> Any:
        from fastsemi.run.predict import Predictor

        return Predictor(self.config)

    @property
    def network(self) -> nn.Module:
        """In evaluation mode, on the run's device: normalised [B, 3, S, S] to logits [B, C]."""
        return self._predictor.network

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the C classes."""
        return self._predictor.classes

    @property
    def temperature(self) -> float:
        """Divides the logits, so that confidences are right about as often as they say."""
        return self._predictor.temperature

    @property
    def summary(self) -> dict[str, Any]:
        """The figures of the run, as `summary.json` holds them."""
        from fastsemi.run.summary import read_summary

        return read_summary(RunFolder(self.config.output).summary)

    def predict(self, images: StrPath | Picture | Iterable[StrPath | Picture], top: int = 1) -> Predictions:
        """Classify images, as `fastsemi predict`; those that cannot be read are left out, with a warning.

        Args:
            images: One or several: image files, folders, packed files, patterns, `@LIST`, pictures of Pillow,
                arrays [H, W, 3] or [H, W] uint8.
            top: How many of the likeliest classes `Predictions.top` has.

        Raises:
            UserError: Something is not there or no picture, or no image can be read.
        """
        import numpy as np

        from fastsemi.run.predict import say_unreadable

        top = _whole(top, "top")
        if not 1 <= top <= len(self.classes):
            raise UserError(f"top is {top}; give 1 to {len(self.classes)}, the number of classes")
        batches = list(self._predictor.classify(_parts(images)))
        broken = self._predictor.unreadable
        if said := say_unreadable(broken):
            warnings.warn(said, stacklevel=2)
        rows = [row for batch in batches for row in batch.best(self.classes, top)]
        return Predictions(
            paths=[path for path, _ in rows],
            classes=[best[0][0] for _, best in rows],
            confidence=np.array([best[0][1] for _, best in rows], np.float32),
            probabilities=np.concatenate([batch.probabilities for batch in batches]),
            top=[tuple(best) for _, best in rows],
            unreadable=sorted(broken.paths),
        )

    def evaluate(self) -> Evaluation:
        """Accuracy on the run's evaluation images, and what confidences are worth, as `fastsemi evaluate`.

        Raises:
            UserError: The images are not there, or have other classes.
        """
        from fastsemi.run.evaluation import evaluate_run

        found = evaluate_run(self.config)
        assert found is not None  # one process
        return found

    def export(
        self,
        format: Literal["onnx", "pt2", "timm"] = "onnx",
        to: StrPath | None = None,
        *,
        with_normalisation: bool = False,
    ) -> Path:
        """Write the network for other programs, as `fastsemi export`.

        Args:
            format: onnx, pt2 for `torch.export.load`, or timm for a copy of its folder.
            to: A file, or a folder for timm; by default model.onnx or model.pt2 in the run.
            with_normalisation: Whether the file takes pixels in [0, 1] and applies mean and deviation itself.

        Raises:
            UserError: No such format, a package is missing, or the network cannot be exported.
        """
        from fastsemi.tools.export.export_run import export_run

        path = None if to is None else _path(to, "to")
        return export_run(self.config, format, path, with_normalisation=with_normalisation).path

    def report(self, *, evaluate: bool = True) -> Path:
        """Write report.html into the run, as `fastsemi report`; returns its path.

        Args:
            evaluate: Whether to run the network over the evaluation images, for the table of classes.
        """
        from fastsemi.tools.report.page import write_report

        return write_report(self.config, evaluate=evaluate)


@dataclass(frozen=True, repr=False)
class Predictions:
    """N images and what they were taken for."""

    paths: list[str]
    """[N] absolute; of a packed image its file and name, of a picture its place in what was given."""
    classes: list[str]
    """[N] the likeliest class."""
    confidence: NDArray[np.float32]
    """[N] its probability."""
    probabilities: NDArray[np.float32]
    """[N, C] of each class."""
    top: list[tuple[tuple[str, float], ...]]
    """[N] the likeliest classes with their probability, the likeliest first."""
    unreadable: list[str]
    """Images that were left out."""

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, str, float]]:
        """Path, class and confidence of each image."""
        return zip(self.paths, self.classes, self.confidence.tolist(), strict=True)

    def __repr__(self) -> str:
        return f"<fastsemi.Predictions of {len(self)} images>"

    def save(self, to: StrPath) -> Path:
        """Write the file that `fastsemi predict --to` does: .csv, .jsonl or .parquet.

        Raises:
            UserError: Another ending, or a folder that is not there.
        """
        from fastsemi.run.prediction_file import require_file, write_predictions

        path = _path(to, "to")
        rows = list(zip(self.paths, self.top, strict=True))
        write_predictions([rows], path, require_file(path), max(map(len, self.top), default=1))
        return path


def _path(value: StrPath, name: str) -> Path:
    """An argument that is a path.

    Raises:
        UserError: It is none.
    """
    if not _names(value):
        raise UserError(f"{name} is {value!r}; give a path")
    return Path(value)


def _whole(value: int, name: str) -> int:
    """An argument that is a whole number.

    Raises:
        UserError: It is none.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; give a whole number")
    return int(value)


def _parts(images: StrPath | Picture | Iterable[StrPath | Picture]) -> list[Part | Pictures]:
    """What was given, neighbours of a kind together."""
    import numpy as np
    from PIL import Image

    from fastsemi.loaders.sources.named import named_images
    from fastsemi.run.predict import Pictures

    one = _names(images) or isinstance(images, Image.Image)
    one = one or (isinstance(images, np.ndarray) and images.ndim < 4)
    if not one and not isinstance(images, Iterable):
        raise UserError(f"{images!r} is no image; give paths, pictures or arrays")
    items: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
    if not items:
        raise UserError("no images are given; give paths, pictures or arrays")
    parts: list[Part | Pictures] = []
    for named, group in itertools.groupby(enumerate(items), lambda item: _names(item[1])):
        places, given = zip(*group, strict=True)
        if named:
            parts += named_images(given)
        else:
            parts.append(Pictures(given, [f"image {place}" for place in places]))
    return parts


def _names(image: Any) -> bool:
    return isinstance(image, str | os.PathLike)
