"""Names in a sentence."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 5


def listed(names: Sequence[str], more: str = ", ...") -> str:
    """The first names, with a comma between them; a name that has one itself is in quotes, as in a CSV.

    Args:
        names: All of them.
        more: What stands for those behind the first `MOST`.
    """
    shown = (f'"{name}"' if "," in name else name for name in names[:MOST])
    return ", ".join(shown) + (more if len(names) > MOST else "")
