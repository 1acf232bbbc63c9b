"""What Hugging Face's `datasets` writes of a class column into the files that it makes."""

from __future__ import annotations

import json
from typing import Any

from fastsemi.common.errors import UserError


def class_label(schema: Any, path: str) -> tuple[str | None, tuple[str, ...]]:
    """The column with a `ClassLabel` feature, and its class names; None without one.

    Args:
        schema: Of pyarrow, with its metadata.
        path: Its file, for messages.

    Raises:
        UserError: What is written describes no columns.
    """
    try:
        described = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features: dict[str, Any] = described.get("info", {}).get("features", {})
        for name, feature in features.items():
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and name in schema.names:
                names = feature.get("names") or []
                if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
                    raise ValueError
                return name, tuple(names)
    except (ValueError, AttributeError, RecursionError):
        raise UserError(
            f"the metadata huggingface in {path} does not describe its columns as Hugging Face's datasets "
            "does; write the file again with it, or take the metadata out"
        ) from None
    return None, ()
