"""Evaluation images get the class numbers of the training images, by the names of the classes."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np

from fastsemi.common.errors import UserError
from fastsemi.common.listed import listed
from fastsemi.loaders.index.index import Index
from fastsemi.loaders.index.places import joined

_log = logging.getLogger(__name__)


def with_classes_of(train: Index, val: Index) -> Index:
    """Evaluation images, numbered by the classes of the training images; of some there may be none.

    Raises:
        UserError: Images without a label, or names of classes that the training images do not have.
    """
    if without := int(np.count_nonzero(val.labels < 0)):
        raise UserError(
            f"{without} images of {val.root} to evaluate on have no label; give it or remove them"
        )
    if val.classes == train.classes:
        return val
    position = {joined(name): c for c, name in enumerate(train.classes)}
    own = [joined(name) for name in val.classes]
    odd = [name for name in own if name not in position]
    if odd:
        raise UserError(
            f"{val.root} has classes that {train.root} has not ({listed(odd)}); give both the same classes"
        )
    if missing := [name for name in position if name not in set(own)]:
        named = listed(missing)
        _log.info(
            "%s: no images to evaluate on of %d of %d classes (%s)",
            *(val.root, len(missing), len(train.classes), named),
        )
    numbers = np.array([position[name] for name in own], np.int32)
    return replace(val, classes=train.classes, labels=numbers[val.labels])
