"""The columns in which Hugging Face's `datasets` keeps images and classes, in Parquet and in Arrow files."""

from __future__ import annotations

import pyarrow as pa

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.class_label import class_label

_LABELS = ("label", "labels", "cls", "class", "target", "fine_label")


def image_column(path: str, schema: pa.Schema) -> str:
    """The column of images, structs with a field `bytes`.

    Raises:
        UserError: There is none, or it holds something else than bytes.
    """
    for field in schema:
        if pa.types.is_struct(field.type) and (at := field.type.get_field_index("bytes")) >= 0:
            kind = field.type[at].type
            if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
                raise UserError(
                    f"field bytes of column {field.name} in {path} is of the type {kind}; write the encoded "
                    "images to it, as binary"
                )
            return str(field.name)
    raise UserError(
        f"{path} has no column of structs with a field bytes (columns: {', '.join(schema.names)}); write it "
        "with Hugging Face's datasets and an Image feature"
    )


def label_column(path: str, schema: pa.Schema) -> tuple[str | None, tuple[str, ...]]:
    """The class column and its class names, by Hugging Face's metadata, else by its usual names.

    Raises:
        UserError: The column holds neither numbers nor text.
    """
    name, classes = class_label(schema, path)
    name = name or next((name for name in _LABELS if name in schema.names), None)
    kind = schema.field(name).type if name else pa.string()
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    kinds = pa.types.is_integer, pa.types.is_boolean, pa.types.is_string, pa.types.is_large_string
    if not any(holds(kind) for holds in kinds):
        raise UserError(
            f"column {name} in {path}, the classes, is of the type {kind}; write whole numbers or text to it"
        )
    return name, classes


def values_of(column: pa.StructArray) -> tuple[pa.Array, list[str | None]]:
    """Bytes and path of each image; null for an image that is null."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    content = column.flatten()[column.type.get_field_index("bytes")]
    at = column.type.get_field_index("path")
    return content, column.flatten()[at].to_pylist() if at >= 0 else [None] * len(content)


def require_bytes(path: str, images: int, whole: int, elsewhere: str | None) -> None:
    """Refuse a file that says where its images lie in place of holding them.

    Args:
        path: The file.
        images: How many it lists.
        whole: How many have bytes.
        elsewhere: The path of one that has none.

    Raises:
        UserError: No image has bytes, and one a path.
    """
    if images and not whole and elsewhere:
        raise UserError(
            f"{path} holds paths of images ({elsewhere}) and not their bytes; write it with save_to_disk or "
            "push_to_hub of Hugging Face's datasets, which put them in, or name a table of these paths"
        )
