"""Whether evaluation images have the classes of the training images."""

from __future__ import annotations

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import Index


def require_same_classes(train: Index, val: Index) -> None:
    """Refuse evaluation images of other classes than the training images.

    Raises:
        UserError: Names some of the classes that only one of them has.
    """
    found = val.classes
    # the highest class numbers may be without evaluation image; names come as a whole
    numbered = found == tuple(str(i) for i in range(len(found)))
    if found != (train.classes[: len(found)] if numbered else train.classes):
        odd = sorted(set(found) ^ set(train.classes))[:3]
        raise UserError(
            f"{val.root} has other classes than {train.root} ({', '.join(odd)}, ...); "
            "give both the same classes"
        )
