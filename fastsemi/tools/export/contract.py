"""The contract between an exported network and whoever feeds it, and the script that keeps it."""

from __future__ import annotations

import ast
import inspect
import pprint
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from fastsemi.common.files import replacing
from fastsemi.loaders.engines import rgb
from fastsemi.loaders.settings import DataConfig
from fastsemi.tools.export import feed

_HEAD = '''"""How a picture becomes the input of the network beside this file. Needs Pillow and NumPy."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image
'''

_SHOW = """

def main() -> None:
    \"\"\"Print the classes of the pictures that are named on the command line; needs onnxruntime.\"\"\"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(Path(__file__).with_name(NETWORK)))
    for path in sys.argv[1:]:
        images = preprocess(path, CONTRACT)[None]
        logits = session.run(["logits"], {"images": images})[0][0] / CONTRACT["temperature"]
        shares = np.exp(logits - logits.max())
        best = int(shares.argmax())
        print(f"{path}\\t{CONTRACT['class_names'][best]}\\t{shares[best] / shares.sum():.4f}")


if __name__ == "__main__":
    main()
"""


def contract(settings: Mapping[str, Any], data: DataConfig, *, normalises: bool) -> dict[str, Any]:
    """What `feed.preprocess` must know, and the names of the classes.

    Args:
        settings: `pretrained_cfg` of a network that `open_timm` gives.
        data: How pictures are read in its run.
        normalises: Whether the network takes pixels in [0, 1].
    """
    return {
        "class_names": list(settings["label_names"]),
        "image_size": settings["input_size"][-1],
        "crop": settings["crop_pct"],
        "resize": data.eval_resize,
        "exif": data.exif,
        "mean": [0.0, 0.0, 0.0] if normalises else list(settings["mean"]),
        "std": [1.0, 1.0, 1.0] if normalises else list(settings["std"]),
        "temperature": settings.get("temperature", 1.0),
    }


def write_script(path: Path, terms: Mapping[str, Any], network: str | None = None) -> None:
    """Write a script that turns a picture's file into the network's input, without fastsemi.

    Args:
        path: The script; a former one is replaced.
        terms: Of `contract`.
        network: Name of the ONNX file beside it, which the script then runs on the pictures it is given.
    """
    body = "\n\n\n".join(_body(module) for module in (rgb, feed))
    known = f"CONTRACT = {pprint.pformat(dict(terms), width=100, sort_dicts=False)}"
    if network:
        body += _SHOW.rstrip()
        known = f"NETWORK = {network!r}\n{known}"
    with replacing(path, encoding="utf-8") as file:
        file.write(f"{_HEAD}\n{known}\n\n{body}\n")


def _body(module: ModuleType) -> str:
    """A module's text behind its imports."""
    source = inspect.getsource(module)
    nodes = ast.parse(source).body
    last = max(node.end_lineno or 0 for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    return "\n".join(source.splitlines()[last:]).strip()
