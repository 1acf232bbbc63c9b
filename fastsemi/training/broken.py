"""Broken images that the processes of a run meet, each its own."""

from __future__ import annotations

from fastsemi.common.errors import UserError
from fastsemi.loaders.bad_images import BadImages
from fastsemi.parallel import processes


def share_broken(bad: BadImages) -> None:
    """Bring together the broken files that the processes met; all processes must ask for it.

    Args:
        bad: Of this process; holds those of all afterwards.

    Raises:
        UserError: They are too many, though none of the processes met too many.
    """
    if not bad.limit or processes.world() == 1:
        return
    bad.paths.update(processes.union(bad.paths))
    if len(bad.paths) > bad.limit:
        raise UserError(
            f"{len(bad.paths)} images cannot be decoded, such as {min(bad.paths)}, and data.max_bad is "
            f"{bad.limit}; repair them, or raise data.max_bad"
        )
