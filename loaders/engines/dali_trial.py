"""Whether DALI survives decoding windows on a GPU: tried in a process of its own, which it may end.

nvImageCodec 0.9.0 ends the process with a segmentation fault there on an H100 (its issue 55).
"""

from __future__ import annotations

import functools
import io
import os
import subprocess
import sys

import numpy as np
from PIL import Image

from fastsemi.loaders.engines.settings import DaliOptions

PATIENCE_S = 60.0
_SIZE, _BATCHES, _BATCH = (500, 375), 3, 16


@functools.cache  # once a process, though training and evaluation have engines of their own
def failure(device: int | None) -> str | None:
    """None where a process that decodes windows on a CUDA device (None: the CPU) ends well, else its end."""
    command = [sys.executable, "-m", __name__, str(device)]
    path = {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **path}
        )
    except subprocess.TimeoutExpired:
        return f"a trial did not end in {PATIENCE_S:g} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.strip().splitlines()
    ended = f"signal {-done.returncode}" if done.returncode < 0 else f"exit code {done.returncode}"
    return f"a trial ended with {ended}" + (f": {lines[-1]}" if lines else "")


def main(device: int | None) -> None:
    """Decode windows of some batches of noise."""
    from fastsemi.loaders.engines.dali_pipeline import ViewPipeline

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*_SIZE[::-1], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    pipeline = ViewPipeline(2, _BATCH, 224, 2, device, False, DaliOptions(decode="window"))
    for _ in range(_BATCHES):
        start = rng.integers(0, 150, (2, _BATCH, 2))
        extent = rng.integers(64, 220, (2, _BATCH, 2))
        windows = np.concatenate([start, extent], axis=2).astype(np.int32)
        pipeline.launch([buffer.getvalue()] * _BATCH, windows, np.zeros((2, _BATCH), bool))
        pipeline.land()


if __name__ == "__main__":
    main(None if sys.argv[1] == "None" else int(sys.argv[1]))
