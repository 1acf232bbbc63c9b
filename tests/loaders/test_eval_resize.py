"""Evaluation as torchvision prepares it: the shorter side is resized, then the centre cut."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches

SIZES = [(90, 60), (60, 90), (64, 64), (41, 130)]


@pytest.fixture
def pictures(tmp_path, photo):
    for split in ("train", "val"):
        for name in ("one", "two"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i, size in enumerate(SIZES):
                exif = Image.Exif()
                if i == 1:
                    exif[0x0112] = 6  # to be turned by 90 degrees
                photo(*size, seed=i).save(folder / f"{i}.png", exif=exif)
    return tmp_path


def load(config, engine):
    data = Data(config, LoaderConfig(engine=engine, threads=1))
    try:
        plans = evaluation_batches(data.val.index, data.val.ids, 8, config.eval_crop, config.resized_to)
        with data.load(data.val, plans, allow_empty=True) as loader:
            return next(loader).images[0].clone().numpy().astype(np.int64)
    finally:
        data.close()


@pytest.mark.parametrize("exif", ["ignore", "apply"])
@pytest.mark.parametrize("engine", ["reference", "native", "thread_pool"])
def test_pixels_are_those_of_resizing_and_cutting(pictures, engine, exif):
    config = DataConfig(
        root=pictures, labels=LabelsConfig(per_class=1), image_size=32, eval_crop=0.8, exif=exif,
        eval_resize="shorter_side",
    )  # fmt: skip
    got = load(config, engine)
    for i in range(len(SIZES)):
        image = Image.open(pictures / f"val/one/{i}.png")
        if exif == "apply" and i == 1:
            image = image.transpose(Image.Transpose.ROTATE_270)
        shorter, longer = 40, int(40 * max(image.size) / min(image.size))
        wide = image.width > image.height
        image = image.resize((longer, shorter) if wide else (shorter, longer), Image.Resampling.BICUBIC)
        left, top = (round((side - 32) / 2) for side in image.size)
        expected = np.asarray(image.crop((left, top, left + 32, top + 32))).astype(np.int64)
        apart = np.abs(got[i] - expected)
        assert apart.max() <= 1 and apart.mean() < 0.1, (SIZES[i], apart.mean())
    assert np.abs(got - load(replace(config, eval_resize="square"), engine)).mean() > 0.2


def test_an_engine_that_resizes_no_whole_images_says_so(pictures):
    config = DataConfig(root=pictures, labels=LabelsConfig(per_class=1), image_size=32)
    data = Data(config, LoaderConfig(engine="native", threads=1))
    try:
        plans = evaluation_batches(data.val.index, data.val.ids, 8, 0.8, 32)
        with pytest.raises((ValueError, UserError), match="resizes no whole images"):
            with data.load(data.val, plans, allow_empty=True) as loader:
                next(loader)
    finally:
        data.close()
