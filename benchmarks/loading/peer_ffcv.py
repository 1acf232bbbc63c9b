"""Stock FFCV as a peer.

`python -m benchmarks.loading.peer_ffcv NAMES OUT` writes the .beton that it reads.
"""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

from PIL import Image

from benchmarks.loading.comparison import AREA, RATIO, AbsentError, MeasuredLoader, Setup

QUALITY = 90  # FFCV's default for JPEGs


class FfcvPeer:
    """A .beton with two image fields, because one field gives one view."""

    def __init__(self, setup: Setup):
        from ffcv.fields.rgb_image import RandomResizedCropRGBImageDecoder
        from ffcv.loader import Loader as FfcvLoader
        from ffcv.loader import OrderOption
        from ffcv.transforms import RandomHorizontalFlip, ToTensor

        path = setup.work / "two_fields.beton"
        if not path.exists():
            names = setup.work / "files.txt"
            names.write_text("\n".join(setup.files))
            # FFCV writes from forked processes, which are safe only where no threads run.
            command = [sys.executable, "-m", "benchmarks.loading.peer_ffcv", str(names), str(path)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
            if done.returncode:
                raise AbsentError(f"FFCV cannot write its file: {done.stderr.strip().splitlines()[-1]}")
        size = (setup.image_size, setup.image_size)

        def view() -> list:
            crop = RandomResizedCropRGBImageDecoder(size, scale=AREA, ratio=RATIO)
            return [crop, RandomHorizontalFlip(), ToTensor()]

        self._loader = FfcvLoader(
            str(path),
            batch_size=setup.batch,
            num_workers=setup.threads,
            os_cache=True,
            order=OrderOption.RANDOM,
            pipelines={"weak": view(), "strong": view()},
            drop_last=True,
        )

    def run_pass(self, times: int = 1) -> int:
        """Epochs."""
        return sum(len(weak) for _ in range(times) for weak, strong in self._loader)

    def close(self) -> None:
        """FFCV's threads end with each epoch."""


def ffcv(setup: Setup) -> MeasuredLoader:
    """Stock FFCV: JPEGs of quality 90 in a .beton, resized by area averaging, the only filter it has."""
    try:
        import ffcv.loader  # noqa: F401
    except ImportError as error:
        raise AbsentError(f"{error}; pip install ffcv") from None
    if setup.augment:
        raise AbsentError("FFCV has no RandAugment")
    return FfcvPeer(setup)


class _Twice:
    def __init__(self, files: list[str]):
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, i: int) -> tuple[Image.Image, Image.Image]:
        image = Image.open(self._files[i]).convert("RGB")
        return image, image


def _write_two_fields(names: Path, out: Path) -> None:
    from ffcv.fields import RGBImageField
    from ffcv.writer import DatasetWriter

    field = partial(RGBImageField, write_mode="jpg", jpeg_quality=QUALITY)
    part = out.with_suffix(".part")
    writer = DatasetWriter(str(part), {"weak": field(), "strong": field()}, num_workers=2)
    writer.from_indexed_dataset(_Twice(names.read_text().splitlines()))
    part.rename(out)


if __name__ == "__main__":
    _write_two_fields(Path(sys.argv[1]), Path(sys.argv[2]))
