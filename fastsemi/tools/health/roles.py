"""What the images of a configuration, or of a folder, are used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fastsemi.loaders.data import Data
from fastsemi.loaders.image_set import ImageSet
from fastsemi.stages.names import StageName, has_classifier


@dataclass(frozen=True)
class Role:
    """Images with one use. No image of a source has two."""

    name: str
    images: ImageSet
    must_not_meet: tuple[str, ...] = ()
    """Roles in which a copy of one of these images makes accuracies look better than they are."""


def roles_of(data: Data, stages: Sequence[StageName]) -> list[Role]:
    """The uses of the images of a run.

    Held-out images that the run also trains on without their labels count as held out.

    Raises:
        UserError: As `Data`.
    """
    if not any(has_classifier(name) for name in stages):
        return [Role("pretraining", data.pretraining)]
    roles = [Role("labelled", data.labelled)]
    alone = data.config.val is None  # then the held-out images are evaluated on and train nothing
    unlabelled = data.unlabelled_or_none if {"semi", "pretrain"} & set(stages) else None
    if len(data.held_out.ids):
        seen = ("labelled", "unlabelled") if alone else ("labelled",)
        roles.append(Role("held-out", data.held_out, seen))
    if unlabelled is not None:
        if unlabelled.source is data.train.source:
            taken = np.concatenate([role.images.ids for role in roles])
            unlabelled = replace(unlabelled, ids=np.setdiff1d(unlabelled.ids, taken))
        roles.append(Role("unlabelled", unlabelled))
    if not alone:
        roles.append(Role("evaluation", data.val, ("labelled", "unlabelled")))
    return [role for role in roles if len(role.images.ids)]


def roles_of_folder(data: Data) -> list[Role]:
    """The uses of images of which nothing says yet which are labelled.

    Raises:
        UserError: As `Data`.
    """
    roles = [Role("training", data.train)]
    if data.config.unlabeled is not None:
        roles.append(Role("unlabelled", data.unlabelled))
    if data.config.val is not None:
        roles.append(Role("evaluation", data.val, ("training", "unlabelled")))
    return roles
