"""A JPEG that is cut short is refused by every engine, wherever it is cut; bytes behind its end are not."""

import io

import numpy as np
import pytest
import torch

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan

WIDTH, HEIGHT, SIZE = 48, 64, 8
ENGINES = ("reference", "native", "thread_pool", "dali")  # FFCV's file gives the length of each image
KINDS = {
    "4:2:0": {},
    "4:4:4": {"subsampling": 0},
    "restart markers": {"restart_marker_rows": 1},
    "progressive": {"progressive": True},
    "grey": {"mode": "L"},
    "CMYK": {"mode": "CMYK"},
    "an end marker in a comment": {"comment": b"before\xff\xd9behind"},
}
END = b"\xff\xd9"
COMPLETE = {
    "as it is": lambda jpeg: jpeg,
    "text behind": lambda jpeg: jpeg + b"text",
    "zeros behind": lambda jpeg: jpeg + bytes(64),
    "half a marker behind": lambda jpeg: jpeg + b"\xff",
    "another JPEG behind": lambda jpeg: jpeg + jpeg,
    "fill bytes before the end": lambda jpeg: jpeg[:-2] + b"\xff\xff" + END,
    "zeros before the end": lambda jpeg: jpeg[:-2] + bytes(9) + END,
    "a comment before the end": lambda jpeg: jpeg[:-2] + b"\xff\xfe\0\x04ab" + END,
}


class Contents:
    """A source of images in memory."""

    turns = None

    def __init__(self, contents):
        self.contents = contents

    def __len__(self):
        return len(self.contents)

    def read(self, ids):
        return [self.contents[i] for i in ids]

    def read_one(self, i):
        return self.contents[i]

    def name(self, i):
        return f"image {i}"

    def size(self, i):
        return WIDTH, HEIGHT

    @property
    def sizes(self):
        return np.tile(np.array([[WIDTH, HEIGHT]], np.int32), (len(self.contents), 1))


@pytest.fixture(params=[pytest.param(kind, id=kind.replace(" ", "-")) for kind in KINDS])
def jpeg(request, photo):
    options = dict(KINDS[request.param])
    buffer = io.BytesIO()
    photo(WIDTH, HEIGHT, 1).convert(options.pop("mode", "RGB")).save(buffer, "JPEG", quality=70, **options)
    return buffer.getvalue()


def _load(name, contents):
    """All images, only a window at the top."""
    count = len(contents)
    view = ViewPlan(np.tile(np.array([[4, 0, 32, 16]], np.int32), (count, 1)), np.zeros(count, bool))
    slot = torch.zeros((1, count, SIZE, SIZE, 3), dtype=torch.uint8)
    engine = create_engine(name, Contents(contents), image_size=SIZE, threads=2, max_pixels=10**6)
    try:
        plan = PlannedBatch(np.arange(count), np.zeros(count, np.int64), (view,))
        return engine.submit(plan, slot).result(60), slot[0].float()
    finally:
        engine.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_jpeg_cut_anywhere_is_refused(engine, jpeg):
    stride = 1 if engine == "native" else 9  # the others ask Pillow, which is slow
    lengths = [n for n in range(1, len(jpeg)) if n % stride == 0 or n > len(jpeg) - 20]
    errors, _ = _load(engine, [jpeg[:length] for length in lengths])
    for i, (length, error) in enumerate(zip(lengths, errors, strict=True)):
        assert isinstance(error, BadImageError), f"{length} of {len(jpeg)} bytes"
        assert error.path == f"image {i}"


@pytest.mark.parametrize("engine", ENGINES)
def test_bytes_behind_the_end_do_no_harm(engine, jpeg):
    errors, views = _load(engine, [change(jpeg) for change in COMPLETE.values()])
    expected = _load("reference", [jpeg])[1][0]
    for what, error, view in zip(COMPLETE, errors, views, strict=True):
        assert error is None, what
        assert (view - expected).abs().mean() < 1.5, what
