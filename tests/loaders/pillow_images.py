"""Compare the engines on the images that Pillow is tested with.

    python tests/loaders/pillow_images.py

fetches Pillow's source archive of the installed version from PyPI, once, into the cache, and gives every
image of a known extension to every engine that is here, as a batch of its own. Ends with 1 where an engine
delivers another image than Pillow does, or another set of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from pathlib import Path

import PIL
from odd_pictures import one_by_one

from fastsemi.loaders.engines.choose import unavailable
from fastsemi.loaders.engines.settings import EngineName
from fastsemi.loaders.index.cache import default_cache_dir
from fastsemi.loaders.index.index import MAX_PIXELS
from fastsemi.loaders.sources.open import open_source

BOUND = 2.0  # mean absolute difference of an image, of 255: drawings of thin lines show each filter's own way
ENGINES: tuple[EngineName, ...] = ("native", "thread_pool", "dali")


def fetch() -> Path:
    """The archive, fetched where it is not in the cache; pip prepares to build it, too, for minutes."""
    folder = default_cache_dir().parent / "pillow"
    name = f"pillow-{PIL.__version__}"
    if not (folder / f"{name}.tar.gz").is_file():
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-binary", ":all:", "--no-deps"]
        if subprocess.run([*words, "--dest", str(folder), name.replace("-", "==")]).returncode:
            sys.exit(f"{name}.tar.gz cannot be fetched from PyPI; put it into {folder}")
    return folder / f"{name}.tar.gz"


def main() -> int:
    """Print how many images each engine delivers and refuses, and those in which it differs."""
    warnings.simplefilter("ignore")
    archive, wrong = fetch(), 0
    with tempfile.TemporaryDirectory() as work:
        os.environ["FASTSEMI_CACHE"] = f"{work}/cache"
        with tarfile.open(archive) as tar:
            tar.extractall(work, [m for m in tar if "/Tests/images/" in m.name], filter="data")
        (folder,) = Path(work).glob("pillow-*/Tests/images")
        source = open_source(folder.parent, folder.name, has_classes=False, max_pixels=MAX_PIXELS)
        errors, views = one_by_one("reference", source)
        print(f"reference: {errors.count(None)} of {len(source)} images delivered, the others refused")
        for engine in ENGINES:
            if engine in unavailable():
                print(f"{engine}: not tried, {unavailable()[engine]}")
                continue
            found, pixels = one_by_one(engine, source)
            largest = 0.0
            for i, (error, same) in enumerate(zip(found, errors, strict=True)):
                difference = float((pixels[i] - views[i]).abs().mean()) if error is None is same else 0.0
                largest = max(largest, difference)
                if (error is None) != (same is None) or difference > BOUND:
                    wrong += 1
                    what = error or f"differs by {difference:.2f}"
                    print(f"  {engine}: {source.name(i)}: {what}; reference: {same or 'delivered'}")
            print(
                f"{engine}: {found.count(None)} delivered, mean difference of an image at most {largest:.2f}"
            )
    return min(1, wrong)


if __name__ == "__main__":
    sys.exit(main())
