"""Write small public data sets as folders of images: `train/<class>/*.png` and `val/<class>/*.png`."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fastsemi.common.errors import UserError

Progress = Callable[[int, int], None]  # images written, images in all

# Label order is the order of these names, so the classes of the index are the labels of the original.
FASHION_MNIST_CLASSES = (
    *("0_t-shirt_top", "1_trouser", "2_pullover", "3_dress", "4_coat"),
    *("5_sandal", "6_shirt", "7_sneaker", "8_bag", "9_ankle_boot"),
)
_DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
_CHUNK = 256  # images a thread writes at a time


def write_digits(out: Path, progress: Progress | None = None) -> None:
    """Write the 1,797 handwritten digits of scikit-learn as 8x8 grey PNG, `<split>/<0-9>/<number>.png`.

    They are the test part of UCI's "Optical Recognition of Handwritten Digits". The pixels 0..16 become
    `round(pixel * 255 / 16)`. `<number>` is the position in `sklearn.datasets.load_digits`. The split is
    always the same: of each class's `n` images the `round(0.2 n)` whose numbers have the smallest SHA-256
    are `val`, the others `train`; that is 1,438 and 359 images.

    Args:
        out: Folder to make; it may exist if it is empty.
        progress: Called with the images written so far and in all.

    Raises:
        UserError: scikit-learn is missing, or `out` holds files or cannot be written.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise UserError(
            "the digits come with scikit-learn, which is not installed; pip install 'fastsemi[demo]'"
        ) from error
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    labels = digits.target.astype(np.int64)
    is_val = np.zeros(len(labels), bool)
    for label in range(10):
        numbers = np.flatnonzero(labels == label).tolist()
        numbers.sort(key=lambda number: hashlib.sha256(str(number).encode()).digest())
        is_val[numbers[: round(0.2 * len(numbers))]] = True
    names = [
        f"{'val' if val else 'train'}/{label}/{number:04d}.png"
        for number, (label, val) in enumerate(zip(labels, is_val, strict=True))
    ]
    with _new_folder(Path(out)) as folder:
        _write_pngs(folder, names, pixels, progress)


def write_fashion_mnist(out: Path, progress: Progress | None = None) -> None:
    """Write Fashion-MNIST (60,000 + 10,000 grey images of 28x28) as `<split>/<class>/<number>.png`.

    The files of Debian's package dataset-fashion-mnist are used where it is installed, else torchvision
    downloads them (30 MB). Class folders are named `0_t-shirt_top` to `9_ankle_boot`, `<number>` is the
    position in the original, whose training part is `train` and whose test part is `val`.

    Args:
        out: Folder to make; it may exist if it is empty.
        progress: Called with the images written so far and in all.

    Raises:
        UserError: The download fails, a file of the package is damaged, or `out` holds files or cannot be
            written.
    """
    with _new_folder(Path(out)) as folder:
        splits = [_fashion_mnist("train"), _fashion_mnist("t10k")] if _has_debian() else _download()
        names = [
            f"{split}/{FASHION_MNIST_CLASSES[label]}/{number:05d}.png"
            for split, (_, labels) in zip(("train", "val"), splits, strict=True)
            for number, label in enumerate(labels.tolist())
        ]
        _write_pngs(folder, names, np.concatenate([pixels for pixels, _ in splits]), progress)


def _has_debian() -> bool:
    return (_DEBIAN_FASHION_MNIST / "train-images-idx3-ubyte.gz").is_file()


def _fashion_mnist(part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    base = _DEBIAN_FASHION_MNIST
    return read_idx(base / f"{part}-images-idx3-ubyte.gz"), read_idx(base / f"{part}-labels-idx1-ubyte.gz")


def _download() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    from torchvision.datasets import FashionMNIST

    with tempfile.TemporaryDirectory() as folder:
        try:
            parts = [FashionMNIST(folder, train=train, download=True) for train in (True, False)]
        except (
            OSError,
            RuntimeError,
        ) as error:  # URLError is an OSError; torchvision wraps some in RuntimeError
            reason = " ".join(str(error).split())
            raise UserError(
                f"cannot download Fashion-MNIST: {reason}; connect to the internet, "
                "or on Debian and Ubuntu: apt-get install dataset-fashion-mnist"
            ) from error
        return [(part.data.numpy(), part.targets.numpy().astype(np.uint8)) for part in parts]


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a gzipped file of unsigned bytes in the IDX format of MNIST, of any number of dimensions.

    Raises:
        UserError: The file is missing, truncated or of another format.
    """
    try:
        data = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise UserError(f"cannot read {path}: {error}; install dataset-fashion-mnist again") from error
    dims = data[3] if data[:3] == b"\0\0\x08" and len(data) > 3 else 0
    shape = np.frombuffer(data[: 4 + 4 * dims], ">u4", offset=4) if len(data) >= 4 + 4 * dims else np.zeros(0)
    if not dims or len(data) != 4 + 4 * dims + shape.prod(dtype=np.int64):
        raise UserError(f"{path} is not a whole IDX file of bytes; install dataset-fashion-mnist again")
    return np.frombuffer(data, np.uint8, offset=4 + 4 * dims).reshape(shape.astype(np.int64).tolist())


@contextlib.contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, renamed to `out` when the block ends well and removed when not."""
    out = Path(os.path.realpath(out))
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"folder {out} already holds files; remove it or name another folder")
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a folder")
    partial = out.parent / f".{out.name}.partial-{uuid.uuid4().hex[:8]}"
    try:
        partial.mkdir(parents=True)
        yield partial
        os.rename(partial, out)  # replaces an empty folder, refuses one that has been filled meanwhile
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}; name another folder") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_pngs(
    folder: Path, names: Sequence[str], pixels: NDArray[np.uint8], progress: Progress | None
) -> None:
    """Write grey images [N, H, W]; PNG compression runs outside the interpreter's lock, hence threads."""
    for parent in sorted({os.path.dirname(name) for name in names}):
        (folder / parent).mkdir(parents=True)

    def write(start: int) -> int:
        part = range(start, min(start + _CHUNK, len(names)))
        for i in part:
            Image.fromarray(pixels[i]).save(folder / names[i])
        return len(part)

    done = 0
    with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
        for written in pool.map(write, range(0, len(names), _CHUNK)):
            done += written
            if progress:
                progress(done, len(names))
