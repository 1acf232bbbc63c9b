"""fastsemi: train image classifiers from few labels and many unlabelled images."""

import importlib
from typing import TYPE_CHECKING, Any

from fastsemi.common.version import __version__

if TYPE_CHECKING:
    from fastsemi.api import Model, Predictions, init, load, probe, train
    from fastsemi.common.errors import UserError

__all__ = ["Model", "Predictions", "UserError", "__version__", "init", "load", "probe", "train"]


def __getattr__(name: str) -> Any:
    """What `__all__` names, imported when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("fastsemi.api"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
