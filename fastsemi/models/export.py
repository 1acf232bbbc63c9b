"""A trained classifier as a file for other programs: ONNX, or a program of torch.export."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastsemi.common.errors import UserError
from fastsemi.models.create import use_fused_attention

Format = Literal["onnx", "pt2"]
OPSET = 18  # of ONNX 1.13 (December 2022); the exporter's own rules are written for it
_UNFINISHED = ".unfinished."  # how the folder begins in which a copy is made
TOLERANCE = 1e-3  # of the largest logit; sums in another order differ by about 1e-6 of it
CHECKED_BATCHES = (1, 3)  # neither is the batch that the graph is traced with


class Normalised(nn.Module):
    """A classifier that takes pixels in [0, 1].

    Args:
        model: Takes normalised pixels.
        mean: Channel means.
        std: Channel deviations.
    """

    def __init__(self, model: nn.Module, mean: tuple[float, ...], std: tuple[float, ...]):
        super().__init__()
        self.model = model
        self.mean = nn.Buffer(torch.tensor(mean)[:, None, None])
        self.std = nn.Buffer(torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """[B, 3, S, S] in [0, 1] -> [B, C] logits."""
        return self.model((images - self.mean) / self.std)


def metadata(model: nn.Module, *, normalises: bool, reading: Mapping[str, str]) -> dict[str, str]:
    """What a user of the file must know, as texts; lists are JSON.

    Args:
        model: As `timm.create_model("local-dir:...")` gives it.
        normalises: Whether the file takes pixels in [0, 1], rather than normalised ones.
        reading: Further texts, of how pictures are read.
    """
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    return {
        "class_names": json.dumps(list(settings["label_names"])),
        "image_size": str(settings["input_size"][-1]),
        "mean": json.dumps(list(settings["mean"])),
        "std": json.dumps(list(settings["std"])),
        "crop_pct": str(settings["crop_pct"]),
        "interpolation": settings["interpolation"],
        **reading,
        "input": "RGB in [0, 1]" if normalises else "RGB in [0, 1], minus mean, divided by std",
        "output": "logits",
        "temperature": str(settings.get("temperature", 1.0)),
    }


def export(
    model: nn.Module, path: Path, form: Format, *, with_normalisation: bool, reading: Mapping[str, str]
) -> float:
    """Write a classifier with a dynamic batch size, and compare what was written with PyTorch.

    Its input is `images`, [B, 3, S, S] fp32, its output `logits`, [B, C].

    Args:
        model: fp32 on the CPU, as `timm.create_model("local-dir:...")` gives it.
        path: The file, which is replaced. Weights too large for ONNX's 2 GB go beside it, `NAME.data`.
        form: onnx, or pt2 for `torch.export.load`.
        with_normalisation: Whether mean and deviation are applied inside.
        reading: As of `metadata`.

    Returns:
        The largest difference of a logit, relative to the largest logit.

    Raises:
        UserError: A package is missing, the network cannot be exported, or the file computes something else.
    """
    if form == "onnx":
        require_onnx()
    settings: dict[str, Any] = model.pretrained_cfg  # type: ignore[assignment]
    size, texts = settings["input_size"][-1], metadata(model, normalises=with_normalisation, reading=reading)
    network = copy.deepcopy(model).eval()
    use_fused_attention(network, True)
    if with_normalisation:
        network = Normalised(network, settings["mean"], settings["std"]).eval()
    write = _write_onnx if form == "onnx" else _write_pt2
    path.parent.mkdir(parents=True, exist_ok=True)
    # In a folder of its own, as ONNX may write two files, of which one names the other.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        fresh = Path(folder, path.name)
        try:
            write(_trace(network, size), fresh, texts)
            difference = _difference(network, open_exported(fresh, form), size)
        except (UserError, OSError):
            raise
        except Exception as error:  # whatever the exporters meet in a network that they do not understand
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(f"cannot export this network as {form} ({reason}); use --format timm") from error
        if not difference <= TOLERANCE:
            raise UserError(
                f"the exported network differs from PyTorch's by {difference:.1e} of the largest logit, and "
                f"was not written; try --format {'pt2' if form == 'onnx' else 'onnx'}"
            )
        for file in sorted(fresh.parent.iterdir(), reverse=True):  # NAME.data before NAME
            file.replace(path.parent / file.name)
    return difference


def open_exported(path: Path, form: Format) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A written file as a function from images [B, 3, S, S] to logits [B, C]."""
    return _load_onnx(path) if form == "onnx" else _load_pt2(path)


@contextmanager
def copy_model(folder: Path, to: Path) -> Iterator[Path]:
    """Copy a timm `local-dir` model to a folder for more files, which becomes `to` at the end of the block.

    Args:
        folder: `model/` of a run.
        to: A folder to make; it may exist if it holds nothing but what a copy that was killed has left.

    Yields:
        The folder; after an error in the block nothing of it is left.

    Raises:
        UserError: `to` holds files, is one, or lies in the model.
    """
    if to.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{to} lies in the model that it is to be a copy of; give another --to")
    there = list(to.iterdir()) if to.is_dir() else []
    if to.is_file() or not all(path.name.startswith(_UNFINISHED) for path in there):
        raise UserError(f"{to} already exists; remove it or give another --to")
    for left in there:
        shutil.rmtree(left)
    to.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=to, prefix=_UNFINISHED) as fresh:
        shutil.copytree(folder, fresh, dirs_exist_ok=True)
        yield Path(fresh)
        for file in Path(fresh).iterdir():
            file.replace(to / file.name)


def require_onnx() -> None:
    """Refuse to go on without the packages that write ONNX.

    Raises:
        UserError: Names what is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {' and '.join(missing)}; pip install 'fastsemi[export]'")


def _trace(network: nn.Module, size: int) -> torch.export.ExportedProgram:
    """The network as a graph for any batch size."""
    return torch.export.export(
        network, (torch.zeros(2, 3, size, size),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
    )


def _write_onnx(program: torch.export.ExportedProgram, path: Path, texts: dict[str, str]) -> None:
    written = torch.onnx.export(
        program, (), input_names=["images"], output_names=["logits"], opset_version=OPSET, verbose=False
    )
    assert written is not None  # with dynamo, the default since PyTorch 2.9
    written.model.metadata_props.update(texts)
    written.save(path)


def _write_pt2(program: torch.export.ExportedProgram, path: Path, texts: dict[str, str]) -> None:
    torch.export.save(program, path, extra_files={"fastsemi.json": json.dumps(texts, indent=2)})


def _load_onnx(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """The written file as a function, in ONNX Runtime where it is installed, else in onnx's own evaluator."""
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda images: np.asarray(session.run(["logits"], {"images": images})[0])
    from onnx.reference import ReferenceEvaluator

    evaluator = ReferenceEvaluator(str(path))
    return lambda images: cast(list[Any], evaluator.run(["logits"], {"images": images}))[0]


def _load_pt2(path: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    network = torch.export.load(path).module()
    return lambda images: network(torch.from_numpy(images)).numpy()


@torch.no_grad()
def _difference(
    network: nn.Module, exported: Callable[[NDArray[np.float32]], NDArray[np.float32]], size: int
) -> float:
    generator, largest = torch.Generator().manual_seed(0), 0.0
    for batch in CHECKED_BATCHES:
        images = torch.rand(batch, 3, size, size, generator=generator)
        expected = network(images).numpy()
        found = exported(images.numpy())
        if found.shape != expected.shape:
            return float("inf")
        largest = max(largest, float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-6)))
    return largest
