"""Images to label next, chosen among those without a label by what is known of all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import UserError
from fastsemi.common.telling import tell
from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.loaders.sources.folder import FolderSource
from fastsemi.loaders.stream import evaluation_batches
from fastsemi.probing.classifiers import Scale, evenly
from fastsemi.probing.features import frozen_features
from fastsemi.probing.probe import MOST_UNLABELLED
from fastsemi.probing.spreading import Graph
from fastsemi.run.baseline import frozen_network
from fastsemi.run.config import Config
from fastsemi.run.context import RunContext
from fastsemi.run.seen import look
from fastsemi.run.trained import load_trained
from fastsemi.tools.suggest.choose import choose, main_components
from fastsemi.tools.suggest.use import names_all

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Row:
    """An image of a table of labels."""

    path: str
    label: str = ""
    """Its class; empty where it is to be given."""
    predicted: str = ""
    """What the model takes it for; empty where there is no model."""
    confidence: float | None = None
    """Probability of `predicted`."""


@dataclass(frozen=True)
class Suggested:
    """What to label next."""

    rows: list[Row]
    """To be labelled, the most useful one first."""
    labelled: list[Row]
    """The images that have a label."""
    others: list[Row]
    """Further images without a label, where the table is to name all images (`names_all`)."""
    pictures: NDArray[np.uint8]
    """[count, S, S, 3] of the first `rows`."""


@dataclass(frozen=True)
class _Known:
    """Features of images, the labelled ones first."""

    x: Array  # [L + U, D]
    labelled: int
    ids: NDArray[np.int64]  # [U] of the others in their index
    shares: Array | None  # [L + U, C]
    classes: tuple[str, ...]


def suggest(
    config: Config, count: int, *, trained: bool = False, images: str | None = None, drawn: int
) -> Suggested:
    """Choose images to label.

    Args:
        config: The run, or what a run would be made with.
        count: How many.
        trained: Whether the run's network tells what the images are; else nothing is trained.
        images: A folder of images of which none has a label; None for those of `config`.
        drawn: Pictures of how many of them are wanted.

    Raises:
        UserError: Too few images without a label, images in archives, or no network.
    """
    run = RunContext(config)
    try:
        labelled, rest = _images(run.data, images)
        _require_files(labelled, rest)
        _require(count, len(rest.ids), rest)
        every = rest.ids
        if len(rest.ids) > MOST_UNLABELLED:
            tell(f"looking at {MOST_UNLABELLED:,} of {len(rest.ids):,} images without a label, spread evenly")
            rest = replace(rest, ids=rest.ids[evenly(len(rest.ids), MOST_UNLABELLED)])
        known = _network(run, labelled, rest) if trained else _untrained(run, labelled, rest)
        _require(count, len(known.ids), rest)  # of which some may be broken
        chosen = choose(main_components(known.x), np.arange(known.labelled), count)
        rows = [_row(known, rest, int(i)) for i in chosen]
        ids = known.ids[chosen - known.labelled]
        left = np.setdiff1d(every, ids) if images is None and names_all(config.data) else ids[:0]
        others = [Row(rest.source.name(int(i))) for i in left]
        pictures = _pictures(run.data, replace(rest, ids=ids[:drawn]))
        return Suggested(rows, _labelled_rows(labelled), others, pictures)
    finally:
        run.close()


def _require_files(*sets: ImageSet | None) -> None:
    """Refuse archives before the work: no table can name images in them."""
    for images in sets:
        if images is not None and not isinstance(images.source, FolderSource):
            raise UserError(
                f"the images of {images.index.root} lie in archives, of which a table of labels can name "
                "none; unpack them into a folder"
            )


def _require(count: int, there: int, images: ImageSet) -> None:
    if count > there:
        raise UserError(
            f"--count {count} is more than the {there:,} readable images without a label in "
            f"{images.index.root}; give that or less"
        )


def _images(data: Data, images: str | None) -> tuple[ImageSet | None, ImageSet]:
    """The images with a label, None where there are none, and those without."""
    if images is not None:
        return None, data.open_unlabelled(images)
    labelled, rest = data.all_labelled, data.unlabelled_or_none
    if rest is not None and rest.index is labelled.index:
        rest = replace(rest, ids=np.setdiff1d(rest.ids, labelled.ids))  # some of these are held out
    elif rest is not None:  # the places of data.unlabeled may hold any image
        known = {part.source.name(int(i)) for part in (labelled, data.val) for i in part.ids}
        new = np.array([rest.source.name(int(i)) not in known for i in rest.ids], bool)
        rest = replace(rest, ids=rest.ids[new])
    if rest is None or not len(rest.ids):
        raise UserError(
            f"all {len(labelled.ids):,} images of {labelled.index.root} have a label; name others with "
            "--data.unlabeled"
        )
    return labelled, rest


def _network(run: RunContext, labelled: ImageSet | None, rest: ImageSet) -> _Known:
    """What the run's network makes of the images."""
    model, names = load_trained(run.config, run.precision)
    sets = [rest] if labelled is None else [labelled, rest]
    tell(f"{run.config.output}: looking at {sum(len(images.ids) for images in sets):,} images")
    seen = [
        look(
            model, images, run.data, run.views, run.precision, classes=len(names), batch=run.config.eval_batch
        )
        for images in sets
    ]
    x, shares = _joined([part.x for part in seen]), _joined([part.shares for part in seen])
    return _Known(x, len(x) - len(seen[-1].x), seen[-1].ids, shares, names)


def _untrained(run: RunContext, labelled: ImageSet | None, rest: ImageSet) -> _Known:
    """Pixels, or frozen features where there are weights; what labels there are is spread among them."""
    has_weights = run.config.model.has_weights
    network = frozen_network(run, 0) if has_weights else None
    name = "the frozen features" if has_weights else "the pixels"
    sets = [rest] if labelled is None else [labelled, rest]
    tell(f"looking at {name} of {sum(len(images.ids) for images in sets):,} images")
    seen = [
        frozen_features(
            network, part, part.ids, run.data, run.views, run.precision, batch=run.config.eval_batch
        )
        for part in sets
    ]
    x, y = _joined([part.x for part in seen]), seen[0].y
    known = 0 if labelled is None else len(y)
    if known == 0 or len(np.unique(y)) < 2:
        return _Known(x, known, seen[-1].ids, None, ())
    spread = Graph.of(Scale.of(x)(x)).spread(y)
    names = tuple(run.data.classes[c] for c in spread.classes)
    return _Known(x, known, seen[-1].ids, spread.shares, names)


def _joined(parts: list[Array]) -> Array:
    """Rows of all parts; one of which no image is readable does not know how wide they are."""
    return np.concatenate([part for part in parts if len(part)] or parts[:1])


def _row(known: _Known, rest: ImageSet, i: int) -> Row:
    path = rest.source.name(int(known.ids[i - known.labelled]))
    if known.shares is None:
        return Row(path)
    shares = known.shares[i]
    return Row(path, "", known.classes[int(shares.argmax())], float(shares.max()))


def _labelled_rows(labelled: ImageSet | None) -> list[Row]:
    if labelled is None:
        return []
    index = labelled.index
    return [Row(labelled.source.name(int(i)), index.classes[index.labels[i]]) for i in labelled.ids]


def _pictures(data: Data, images: ImageSet) -> NDArray[np.uint8]:
    """[N, S, S, 3] of some images, the centred square of each."""
    plans = evaluation_batches(images.index, images.ids, len(images.ids), crop=1.0)
    with data.load(images, plans) as loader:
        return next(loader).images[0].cpu().numpy().copy()
