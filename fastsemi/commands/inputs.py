"""Refuses what is not on the disk at once, before PyTorch is imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastsemi.common.errors import UserError
from fastsemi.common.object_store import require_obstore
from fastsemi.loaders.sources.open import require_evaluation, require_images
from fastsemi.run.folder import RunFolder
from fastsemi.stages.names import STAGES, has_classifier
from fastsemi.training.loggers import require_loggers

if TYPE_CHECKING:
    from fastsemi.run.config import Config


def require_inputs(config: Config, stages: Sequence[str]) -> None:
    """Refuse a missing folder of images, file of labels or file of weights.

    Args:
        config: The run.
        stages: Those to train.

    Raises:
        UserError: Names the first that is missing.
    """
    _require_place(config.output)
    require_loggers(config.train.loggers)
    if config.train.mirror:
        require_obstore()
    data = config.data
    require_images(data.root, data.train)
    for place in data.unlabelled_places:
        require_images(Path(), place)
    if any(has_classifier(name) for name in stages):
        if data.val is not None:
            require_evaluation(data.root, data.val)
        if data.labels.file is not None and not data.labels.file.is_file():
            raise UserError(f"label index file {data.labels.file} does not exist; correct data.labels.file")
    run = RunFolder(config.output)
    begun = any(run.result(name).exists() for name in STAGES)  # then on from the stage that has finished
    if config.model.weights is not None and not begun and not config.model.weights.is_file():
        raise UserError(f"weights {config.model.weights} do not exist; check model.weights")


def _require_place(output: Path) -> None:
    """Refuse a run directory that is a file, or is to lie in one."""
    there = next(path for path in (output, *output.parents) if path.exists() or path == path.parent)
    if there.exists() and not there.is_dir():
        raise UserError(f"cannot write run directory {output}: {there} is a file; change --output")


def require_file(option: str, path: Path, ending: str = "") -> None:
    """Refuse a file that cannot be written, before the work for it.

    Args:
        option: What names it.
        path: The file.
        ending: What its name must end in.

    Raises:
        UserError: It is a folder, its own folder is missing, or it ends otherwise.
    """
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file in it")
    if not path.parent.is_dir():
        raise UserError(f"{option} {path}: the folder {path.parent} does not exist; make it")
    if not path.name.lower().endswith(ending):
        raise UserError(f"{option} {path} does not end in {ending}; add it, the name tells the kind of file")
