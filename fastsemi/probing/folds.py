"""How labels are split to choose settings on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sklearn.model_selection import StratifiedKFold

FOLDS = 5


def folds(y: NDArray[np.int64]) -> StratifiedKFold | None:
    """As many folds as the rarest class has images, at most FOLDS; None where a class has a single one."""
    from sklearn.model_selection import StratifiedKFold

    least = int(np.unique(y, return_counts=True)[1].min())
    return StratifiedKFold(min(FOLDS, least), shuffle=True, random_state=0) if least > 1 else None
