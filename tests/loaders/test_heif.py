"""Photographs of telephones, where pillow_heif is installed: every engine delivers them from every source."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from fastsemi.loaders.index.formats import FORMATS

pytest.importorskip("pillow_heif", reason="needs pillow_heif: pip install pillow-heif")

SIZES = [(64, 48), (75, 101), (48, 80)]


@pytest.fixture(scope="module")
def heic(tmp_path_factory, photo, contract):
    """A folder source of HEICs: of one class as the camera held them, of the other lying on their side."""
    root = tmp_path_factory.mktemp("heic")
    lying = Image.Exif()
    lying[0x0112] = 6
    for i, size in enumerate(SIZES):
        contract.save(root / "plain", f"{i}.heic", photo(*size, i), quality=90)
        contract.save(root / "side", f"{i}.HEIC", photo(*size, i), quality=90, exif=lying.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTSEMI_CACHE", str(tmp_path_factory.mktemp("cache")))
        return contract.open_images(root)


def test_the_index_knows_their_sizes(heic):
    assert "HEIF" in FORMATS and heic.index.classes == ("plain", "side")
    assert len(heic.index.broken) == 0 and heic.index.lying == 0, "the library turns them as it reads"
    assert heic.index.sizes.tolist() == [*map(list, SIZES), *([h, w] for w, h in SIZES)]


@pytest.mark.sources("folder", "tar", "parquet")
def test_every_engine_delivers_them_as_viewers_show_them(engine, kind, heic, contract, tmp_path):
    source = contract.pack(kind, heic, tmp_path)
    found = contract.load(engine, source, contract.whole(source.index))[0].astype(int)
    for i in range(len(heic)):
        with Image.open(heic.path(i)) as image:
            shown = ImageOps.exif_transpose(image).convert("RGB")
        width, height = shown.size
        side = min(width, height)
        left, top = round((width - side) / 2), round((height - side) / 2)
        cut = shown.crop((left, top, left + side, top + side))
        wanted = np.asarray(cut.resize((contract.SIZE, contract.SIZE), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(found[i] - wanted).mean() < 1.5, (i, engine)
