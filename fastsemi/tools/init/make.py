"""From a folder of images to the text of a configuration, and what to tell about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.formats import say_skipped
from fastsemi.loaders.index.table import read_columns
from fastsemi.loaders.settings import DataConfig, LabelsConfig
from fastsemi.tools.init.draft import Draft
from fastsemi.tools.init.fit import RECIPES, choose_recipe, fit, hold_out_fraction, recipe_names, say_held_out
from fastsemi.tools.init.layout import Layout
from fastsemi.tools.init.survey import Survey, look

if TYPE_CHECKING:
    from fastsemi.models.pretrained import Preprocessing


@dataclass(frozen=True)
class Made:
    """A configuration, and lines that tell what was found."""

    text: str
    lines: tuple[str, ...]


def require_recipe(name: str) -> None:
    """Refuse a recipe that there is not.

    Raises:
        UserError: Lists those that there are.
    """
    if name not in recipe_names():
        raise UserError(f"there is no recipe {name}; give one of {', '.join(recipe_names())}")


def make(layout: Layout, labels: LabelsConfig, recipe: str | None = None) -> Made:
    """A configuration for a folder of images.

    Args:
        layout: Where they are.
        labels: Which images are labelled.
        recipe: By default what fits the pictures and the machine.

    Raises:
        UserError: As `look` and `hold_out_fraction`.
    """
    survey = look(layout, labels)
    labels = replace(labels, validation=hold_out_fraction(survey))
    import torch  # after everything that can be wrong with the folder has been found

    choose = partial(choose_recipe, survey, cuda=torch.cuda.is_available())
    wanted, why = (recipe, "as asked for") if recipe else choose(coloured=False)
    draft, weights = _draft(survey, labels, wanted)
    coloured = not weights and _set_colours(draft, layout, labels)
    if coloured and not recipe:
        wanted, why = choose(coloured=True)
        draft, _ = _draft(survey, labels, wanted)
    said = [f"recipe: {wanted} ({why})"]
    if coloured and recipe:
        said.append(f"coloured pictures gain from published weights, as of {choose(coloured=True)[0]}")
    return Made(draft.text(), (*_found(survey), *said, *_fitted(draft, survey)))


def _draft(survey: Survey, labels: LabelsConfig, recipe: str) -> tuple[Draft, bool]:
    """The recipe with what the folder holds, and whether it starts from published weights."""
    published = _published(recipe)
    return fit(survey, labels, recipe, published), published is not None


def _published(recipe: str) -> Preprocessing | None:
    """The images that a recipe's published weights were trained on."""
    from fastsemi.models.pretrained import preprocessing, published_name
    from fastsemi.run.config import read_preset

    model = read_preset(RECIPES / f"{recipe}.yaml")["model"]
    if not model.get("pretrained"):
        return None
    return preprocessing(published_name(model["name"], model["pretrained"]))


def _set_colours(draft: Draft, layout: Layout, labels: LabelsConfig) -> bool:
    """Mean and deviation of the images themselves; whether these are coloured."""
    from fastsemi.tools.init.measure import MOST, measure_colours

    config = DataConfig(
        root=layout.root,
        train=layout.train,
        val=layout.val,
        unlabeled=layout.unlabelled,
        labels=labels,
        image_size=draft.get("data.image_size"),
        eval_crop=draft.get("data.eval_crop"),
        exif=draft.get("data.exif") or "ignore",
        max_bad=MOST,
    )
    colours = measure_colours(config)
    draft.set("data.mean", list(colours.mean), f"Measured on at most {MOST:,} of the images.")
    draft.set("data.std", list(colours.std))
    return colours.coloured


def _found(survey: Survey) -> Iterator[str]:
    """What there is, a line each."""
    layout, images = survey.layout, survey.images
    least, most = int(images.argmin()), int(images.argmax())
    spread = f"{images[least]:,} ({survey.classes[least]}) to {images[most]:,} ({survey.classes[most]}) each"
    folder = layout.root / layout.train
    yield from layout.said
    if layout.table is not None:
        yield f"{layout.table}: {read_columns(layout.table)}"
    unnamed = f", and {survey.unnamed:,} without" if survey.unnamed else ""
    yield f"{folder}: {images.sum():,} images of {len(survey.classes):,} classes, {spread}{unnamed}"
    if survey.uneven:
        yield f"classes are of different size, by a factor of {survey.unevenness:.1f}"
    rest = survey.further or survey.without_label
    where = f" in {layout.unlabelled}" if survey.further else ""
    yield f"labelled: {survey.labelled.sum():,} images; unlabelled: {rest:,}{where}"
    if survey.further and survey.without_label:
        yield (
            f"not used: {survey.without_label:,} images of {folder} that do not count as labelled; add "
            f"copies of them to {layout.unlabelled} to train on them too"
        )
    if not rest:
        yield (
            "without unlabelled images there is no semi stage, only fine-tuning; give a folder of them with "
            "--unlabeled, or count a few of each class as labelled with --per_class"
        )
    if layout.val is None:
        yield "evaluation: no folder of its own, a part of the labelled images is held out"
    else:
        unused = f" ({', '.join(layout.unused)} not used)" if layout.unused else ""
        yield f"evaluation: {survey.evaluated:,} images in {layout.root / layout.val}{unused}"
    yield (
        f"longer sides: {survey.sides.min():,} to {survey.sides.max():,} pixels, half of them up to "
        f"{survey.side:,}"
    )
    if count := len(survey.broken):
        yield (
            f"images that cannot be read: {count:,}, the first: {survey.broken[0]}; remove them, or set "
            f"data.max_bad to {count}: training stops at them"
        )
    yield from _odd(survey)


def _odd(survey: Survey) -> Iterator[str]:
    """What is no image, and images that are not stored as viewers show them."""
    if count := survey.layout.beside:
        yield (
            f"{survey.layout.root}: not used: {count:,} image{'s' * (count > 1)} beside the folder "
            f"{survey.layout.train}; move them into class folders to use them"
        )
    for folder, skipped in survey.skipped:
        yield f"{folder}: {say_skipped(skipped)}"
    if survey.lying:
        done = "data.exif apply turns them" if survey.turnable else "they stay so: a .beton cannot be turned"
        yield f"images that lie on their side or mirrored, as EXIF says: {survey.lying:,}; {done}"


def _fitted(draft: Draft, survey: Survey) -> Iterator[str]:
    """What the configuration makes of it."""
    sizes = f"{draft.get('data.image_size')} pixels"
    batches = [f"{name} {draft.get(f'{name}.batch')}" for name in draft.get("stages")]
    yield f"stages: {', '.join(draft.get('stages'))}; input {sizes}; labelled batch: {', '.join(batches)}"
    if validation := draft.get("data.labels.validation"):
        yield f"held out (data.labels.validation), training nothing: {say_held_out(survey, validation)}"
