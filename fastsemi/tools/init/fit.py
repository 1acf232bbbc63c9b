"""Fits a recipe of `configs/practical/` to what a folder of images holds."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.common.listed import MOST, listed
from fastsemi.common.schedule import Duration
from fastsemi.loaders.index.labels import held_counts
from fastsemi.loaders.settings import LabelsConfig
from fastsemi.run.config import read_preset
from fastsemi.stages.finetune_config import FinetuneConfig
from fastsemi.tools.init.draft import Draft
from fastsemi.tools.init.survey import UNEVEN, Survey

if TYPE_CHECKING:
    from fastsemi.models.pretrained import Preprocessing

RECIPES = Path(__file__).with_name("recipes")  # a link to configs/practical, whose files the package holds
FROM_SCRATCH = "from_scratch_small"

SMALL = 64  # pixels of the longer side up to which pictures are small
# Unlabelled pictures from which on the whole network is trained; measured with 347, 1,127 and 9,900.
MANY = 1_000
LONG = 5_000, "600 steps"  # unlabelled pictures from which on it is trained for longer; measured with 9,900
ENOUGH = (
    25  # labels of a class from where on some are held out to choose on; where that pays was not measured
)
HELD_OUT, MORE = 0.2, 0.5  # of the labels of each class; more where that holds none out
PASSES = {True: 30, False: 5}  # over the labels where there is nothing else, from scratch or not
LONGEST = 10_000  # steps of such a training
LEAST_SIDE, STEP = 128, 32  # input sizes of pretrained convolutional networks, in pixels
SPREADABLE = 60_000  # unlabelled images that label spreading looks at


def recipe_names() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def choose_recipe(survey: Survey, *, cuda: bool, coloured: bool) -> tuple[str, str]:
    """The recipe for pictures of this size on this machine, and why.

    Args:
        survey: What the folder holds.
        cuda: Whether there is a CUDA GPU.
        coloured: Whether the pictures are; it is asked of small ones alone.
    """
    small = survey.side <= SMALL
    if small and not coloured:
        return FROM_SCRATCH, f"half of the pictures have no side longer than {survey.side} pixels"
    if cuda and not small:
        return "pretrained_vit_small", f"pictures larger than {SMALL} pixels, and a CUDA GPU"
    why = "coloured pictures" if small else f"pictures larger than {SMALL} pixels, and no CUDA GPU"
    if (others := survey.further or survey.without_label) >= MANY:
        return "pretrained_cnn_many", f"{others:,} unlabelled {why}"
    return "pretrained_cnn", why


def fit(survey: Survey, labels: LabelsConfig, recipe: str, published: Preprocessing | None) -> Draft:
    """A recipe with the data, stages and batches of a folder of images.

    Args:
        survey: What the folder holds.
        labels: Which images are labelled, and the part of them that `hold_out_fraction` says.
        recipe: One of `recipe_names`.
        published: Images of the recipe's published weights, None without weights.
    """
    path = RECIPES / f"{recipe}.yaml"
    lines = path.read_text().splitlines()
    said = [line.removeprefix("# ") for line in lines if line.startswith("#")]
    draft = Draft(
        read_preset(path),
        [f"Made by `fastsemi init` from the recipe {recipe}:", *said],
    )
    draft.set("output", f"runs/{survey.layout.name}", "The run directory.")
    held = held_counts(survey.labelled, labels.validation)
    trained = int((survey.labelled - held).sum())
    others = survey.further or survey.without_label
    _set_data(draft, survey, labels)
    _set_inputs(draft, survey, published)
    _set_stages(draft, others, trained, from_scratch=published is None)
    if recipe == "pretrained_cnn_many" and others >= LONG[0]:
        draft.set("semi.length", LONG[1], f"Longer than the recipe's, for {others:,} unlabelled pictures.")
    _set_batches(draft, trained, others, len(survey.classes))
    _set_frequencies(draft, survey)
    _set_flips(draft, survey)
    return draft


def hold_out_fraction(survey: Survey) -> float:
    """`data.labels.validation`: of many labels a fifth, of few none unless there is no evaluation set.

    Without an evaluation set half of them, where a fifth is less than half an image of every class.

    Raises:
        UserError: Too few labels to train and to evaluate on.
    """
    if survey.layout.val is not None:
        usual = float(np.median(survey.labelled[survey.labelled > 0]))
        return 0.0 if usual < ENOUGH else HELD_OUT
    for fraction in (HELD_OUT, MORE):
        if held_counts(survey.labelled, fraction).any():
            return fraction
    raise UserError(
        f"{survey.layout.root} has no evaluation images, and no class has a second label to evaluate on; "
        f"label more, or add {survey.layout.root / 'val'}"
    )


def say_held_out(survey: Survey, fraction: float) -> str:
    """How many labels train nothing, and which classes have none of them, in words."""
    held = held_counts(survey.labelled, fraction)
    without = [name for name, count in zip(survey.classes, held, strict=True) if not count]
    more = f" and {len(without) - MOST:,} more"
    none = f", of these classes none: {listed(without, more)}" if without else ""
    return f"{held.sum():,} of {survey.labelled.sum():,} labels{none}"


def _why_held_out(survey: Survey, fraction: float) -> str:
    held = f"The part `validation` of each class trains nothing: {say_held_out(survey, fraction)}"
    if survey.layout.val is None:
        return (
            f"There is no evaluation set. {held}. All accuracies are of these labels, and the best network "
            "is chosen on them; how all labels can train after that, the end of the run says."
        )
    if fraction:
        return f"{held}. The best network is chosen on these labels."
    return (
        "All of them train. The best network is then chosen on the evaluation images, which flatters it; "
        f"`validation: {HELD_OUT}` holds a part of the labels back for that."
    )


def _set_data(draft: Draft, survey: Survey, labels: LabelsConfig) -> None:
    layout, recipe = survey.layout, draft.settings.pop("data")
    draft.set("data.root", str(layout.root))
    draft.set("data.train", layout.train)
    draft.set("data.val", layout.val)
    if layout.unlabelled is not None:
        why = "Images without classes."
        if survey.without_label:
            why += f" Not used: the {survey.without_label:,} training images that have no label."
        draft.set("data.unlabeled", str(layout.unlabelled), why)
    default = LabelsConfig()
    given = {
        field.name: getattr(labels, field.name)
        for field in dataclasses.fields(labels)
        if getattr(labels, field.name) != getattr(default, field.name)
    }
    given = {name: str(value) if isinstance(value, Path) else value for name, value in given.items()}
    why = _why_held_out(survey, labels.validation)
    draft.set("data.labels", given, f"{survey.labelled.sum():,} images have a label. {why}")
    for name, value in recipe.items():
        if name != "labels":
            draft.set(f"data.{name}", value)
    if survey.lying and survey.turnable:
        why = f"Images that lie on their side or mirrored: {survey.lying:,}. Turned as viewers show them."
        draft.set("data.exif", "apply", why)


def _set_inputs(draft: Draft, survey: Survey, published: Preprocessing | None) -> None:
    """Size of the input; with published weights also how images are prepared for them."""
    side, given = survey.side, draft.get("data.image_size")
    why = f"Half of the pictures have no side longer than {side:,} pixels"
    if published is None:
        size = min(SMALL, max(given, 16 * math.ceil(side / 16)))
        draft.set("data.image_size", size, f"{why}.")
        return
    largest = published.image_size
    if given is None:
        size = min(largest, max(LEAST_SIDE, STEP * math.ceil(side / STEP)))
        draft.set("data.image_size", size, f"{why}; the weights were trained on {largest}.")
    elif given < largest:
        more = f"other inputs, up to the {largest} of the weights, tell more where larger and take longer"
        draft.set("data.image_size", given, f"{why}; {more}.")
    draft.set("data.eval_crop", published.eval_crop, "This, mean and deviation are those of the weights.")
    draft.set("data.mean", list(published.mean))
    draft.set("data.std", list(published.std))
    text = "Downloaded once, by name. Without a connection: false, and `weights: FILE`"
    text += f", or `--recipe {FROM_SCRATCH}`." if side <= SMALL else "."
    draft.set("model.pretrained", draft.get("model.pretrained"), text)


def _set_stages(draft: Draft, others: int, trained: int, *, from_scratch: bool) -> None:
    """Without unlabelled images fine-tuning alone, for as long as the labels need."""
    if others:
        return
    draft.set("stages", ["finetune"], "There are no unlabelled images, so that there is no semi stage.")
    semi = draft.settings.pop("semi")
    if "finetune" not in draft.settings:
        draft.set("finetune", _fine_tuning(semi), "The settings of the recipe's semi stage; not measured.")
    draft.settings["finetune"].pop("spread_keep", None)
    draft.settings["finetune"].pop("spread_ratio", None)
    each = math.ceil(trained / min(draft.get("finetune.batch"), trained))
    passes, recipe = PASSES[from_scratch], Duration(draft.get("finetune.length")).steps(each)
    steps = max(recipe, min(passes * each, LONGEST))
    if steps > recipe:
        why = f"{passes} passes over the labels, but no more than {LONGEST:,} steps; not measured."
        draft.set("finetune.length", f"{steps} steps", why)
        for key in ("finetune.eval_every", "finetune.checkpoint_every"):
            draft.set(key, f"{max(Duration(draft.get(key)).steps(each), steps // 10)} steps")


def _fine_tuning(semi: dict[str, Any]) -> dict[str, Any]:
    """What fine-tuning has in common with a semi stage."""
    shared = {field.name for field in dataclasses.fields(FinetuneConfig)} - {"mix"}
    found = {name: value for name, value in semi.items() if name in shared}
    return {**found, "mix": semi["labelled_mix"]}


def _set_batches(draft: Draft, trained: int, others: int, classes: int) -> None:
    """Batches that the images fill."""
    why = f"No more than the {trained:,} labels that train."
    if (batch := draft.get("finetune.batch")) is not None:
        if batch > trained:
            draft.set("finetune.batch", batch := trained, why)
        if ratio := draft.get("finetune.spread_ratio"):
            # of each class that label spreading finds a fraction is kept, rounded
            kept = int(draft.get("finetune.spread_keep") * min(others, SPREADABLE) - classes / 2)
            if ratio > max(0, kept) // batch:
                text = f"No more than label spreading labels of {others:,} images."
                draft.set("finetune.spread_ratio", max(0, kept) // batch, text)
    if (batch := draft.get("semi.batch")) is not None:
        if batch > min(trained, others):
            why = f"No more than the {trained:,} labels and the {others:,} images without."
            draft.set("semi.batch", batch := min(trained, others), why)
        if draft.get("semi.unlabelled_ratio") > others // batch:
            text = f"No more than the {others:,} unlabelled images."
            draft.set("semi.unlabelled_ratio", others // batch, text)


def _set_frequencies(draft: Draft, survey: Survey) -> None:
    """No alignment to classes of equal size where they are of different size, or where nobody knows."""
    if draft.get("semi.align") != "uniform":
        return
    if survey.layout.unlabelled is not None or survey.unnamed:
        why = "How frequent the classes are among the unlabelled images is not known; uniform: equally."
        draft.set("semi.align", "none", why)
    elif survey.uneven:
        why = f"The largest class has {survey.unevenness:.1f} times the images of the smallest."
        draft.set("semi.align", "none", why)
    else:
        why = f"No class has more than {UNEVEN} times the images of another."
        draft.set("semi.align", "uniform", why)


def _set_flips(draft: Draft, survey: Survey) -> None:
    """No mirror images of what looks like digits or letters, and a word about them elsewhere."""
    if all(len(name) == 1 for name in survey.classes):
        for key in ("finetune.augment", "semi.augment", "semi.weak", "semi.strong"):
            if (view := draft.get(key)) is not None:
                text = "No mirror images: the classes look like digits or letters."
                draft.set(key, {**view, "flip": 0.0}, text)
