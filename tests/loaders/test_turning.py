"""Images turned by their EXIF orientation: as `ImageOps.exif_transpose` turns them, in every engine."""

import io
import logging
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from fastsemi.common.errors import UserError
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.engines.turning import stored_windows, turn
from fastsemi.loaders.index.header import image_header, stored_size
from fastsemi.loaders.sources.open import open_source

KINDS = ("jpg", "png", "webp", "tif")


def with_orientation(image, number, kind):
    exif = Image.Exif()
    exif[0x0112] = number
    buffer = io.BytesIO()
    name = {"jpg": "JPEG", "tif": "TIFF"}.get(kind, kind.upper())
    image.save(buffer, name, exif=exif, **({"quality": 95} if kind == "jpg" else {}))
    return buffer.getvalue()


@pytest.fixture(scope="module")
def lying(tmp_path_factory, photo):
    """A folder of images of every orientation and kind."""
    root = tmp_path_factory.mktemp("lying")
    for number in range(1, 9):
        for kind in KINDS:
            path = root / "train" / "abc"[number % 3] / f"{number}.{kind}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(with_orientation(photo(90, 60, number), number, kind))
    return root


def opened(root, what="train", exif="apply"):
    return open_source(root, what, has_classes=True, max_pixels=10**6, exif=exif)


@pytest.mark.parametrize("number", range(1, 9))
def test_a_turn_is_that_of_pillow_and_windows_lie_where_they_are_cut(number, photo):
    stored = photo(90, 60, number)
    with Image.open(io.BytesIO(with_orientation(stored, number, "png"))) as image:
        turned = ImageOps.exif_transpose(image)
    pixels = turn(torch.from_numpy(np.array(stored)), number)
    np.testing.assert_array_equal(pixels, np.asarray(turned))
    box = np.array([[7, 11, 40, 30]], np.int32)
    ((left, top, width, height),) = stored_windows(
        box, np.array([turned.size], np.int32), np.array([number], np.uint8)
    ).tolist()
    cut = np.array(stored)[top : top + height, left : left + width]
    np.testing.assert_array_equal(turn(torch.from_numpy(cut), number), np.asarray(turned)[11:41, 7:47])


@pytest.mark.parametrize("kind", KINDS)
def test_what_an_index_says_is_what_pillow_would_turn(kind, photo):
    for number in (0, 1, 2, 5, 6, 8, 9):
        data = with_orientation(photo(20, 10), number, kind)
        with Image.open(io.BytesIO(data)) as image:
            turned = ImageOps.exif_transpose(image)
        width, height, orientation = image_header(io.BytesIO(data), 10**6)
        assert turned.size == ((height, width) if orientation >= 5 else (width, height))
        assert orientation in (number, 1)


def test_a_png_whose_exif_stands_behind_its_pixels(photo):
    data = with_orientation(photo(20, 10), 6, "png")
    at = data.index(b"eXIf") - 4
    length = 12 + int.from_bytes(data[at : at + 4])
    end = data.index(b"IEND") - 4
    moved = data[:at] + data[at + length : end] + data[at : at + length] + data[end:]
    assert image_header(io.BytesIO(moved), 10**6) == image_header(io.BytesIO(data), 10**6) == (20, 10, 6)


def chunk(kind, data):
    return len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)


@pytest.mark.parametrize("behind", [False, True])
def test_no_pixel_of_a_png_is_decoded_for_its_xmp(behind, photo, tmp_path, monkeypatch):
    buffer, xmp = io.BytesIO(), b'XML:com.adobe.xmp\0\0\0\0\0<x tiff:Orientation="8"/>'
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8)).save(buffer, "PNG")
    plain = buffer.getvalue()
    at = plain.index(b"IEND") - 4 if behind else 33
    data = plain[:at] + chunk(b"iTXt", xmp) + plain[at:]
    with Image.open(io.BytesIO(data)) as image:
        assert ImageOps.exif_transpose(image).size == (200, 150)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    (tmp_path / "shard").write_bytes(b"before" + data + b"behind")
    with open(tmp_path / "shard", "rb") as file:
        assert stored_size(file.fileno(), 6, len(data), 10**6) == (150, 200, 8)
    assert len(data) > 65_536, "more than what is read of every image"
    assert image_header(io.BytesIO(data), 10**6) == (150, 200, 8)
    assert image_header(io.BytesIO(plain), 10**6) == (150, 200, 1)


def expected(source, batch, size):
    views = np.zeros((len(batch.views), len(batch.ids), size, size, 3), np.uint8)
    for b, i in enumerate(batch.ids.tolist()):
        with Image.open(source.name(i)) as image:
            turned = ImageOps.exif_transpose(image).convert("RGB")
        assert turned.size == source.size(i)
        for v, view in enumerate(batch.views):
            left, top, width, height = view.window[b].tolist()
            tile = turned.crop((left, top, left + width, top + height)).resize((size, size), Image.BICUBIC)
            views[v, b] = np.asarray(ImageOps.mirror(tile) if view.flip[b] else tile)
    return views.astype(int)


@pytest.mark.sources("folder")
def test_every_engine_gives_the_views_of_the_turned_image(engine, kind, lying, contract):
    source = opened(lying)
    assert source.index.lying == 7 * 3  # Pillow turns TIFFs as it reads them
    plan = contract.stream(source.index, seed=1).plan(0, 0)
    wanted, found = expected(source, plan, contract.SIZE), contract.load(engine, source, plan).astype(int)
    difference = np.abs(found - wanted).mean(axis=(2, 3, 4))
    limit = 0 if engine == "reference" else 1.2
    names = [source.name(i).rsplit("/", 1)[1] for i in plan.ids.tolist()]
    assert difference.max() <= limit, dict(zip(names, difference.max(0).tolist(), strict=True))


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_archives_know_how_their_images_lie(kind, lying, contract, tmp_path):
    folder = opened(lying, exif="ignore")
    contract.pack(kind, folder, tmp_path)
    source = opened(tmp_path, "a.tar" if kind == "tar" else "a.parquet")
    turned = opened(lying)
    np.testing.assert_array_equal(source.index.orientation, turned.index.orientation)
    np.testing.assert_array_equal(source.index.sizes, turned.index.sizes)
    plan = contract.whole(source.index)
    np.testing.assert_array_equal(
        contract.load("native", source, plan), contract.load("native", turned, plan)
    )


def test_without_it_images_stay_as_they_are_stored_and_the_user_is_told(lying, caplog, contract):
    with caplog.at_level(logging.INFO, "fastsemi.loaders"):
        stored, turned = opened(lying, exif="ignore"), opened(lying)
    assert (
        "21 of 32 images lie on their side or mirrored, as EXIF says; data.exif apply" in caplog.messages[0]
    )
    assert "21 of 32 images are turned as EXIF says" in caplog.messages[1]
    assert stored.turns is None and not stored.index.turned
    on_side = stored.index.orientation >= 5
    assert stored.index.sizes[on_side].tolist() == [[90, 60]] * 12
    assert turned.index.sizes[on_side].tolist() == [[60, 90]] * 12
    assert replace(turned.as_stored().index, skipped={}).sizes.tolist() == stored.index.sizes.tolist()


def test_a_broken_image_and_one_that_lies_may_share_a_batch(lying, tmp_path, contract):
    import shutil

    shutil.copytree(lying / "train", tmp_path / "train")
    source = opened(tmp_path)
    broken = source.name(0)
    with open(broken, "r+b") as file:
        file.truncate(100)
    plan = contract.whole(source.index)
    engine = create_engine("native", source, image_size=16, threads=1, max_pixels=10**6)
    slot = torch.zeros((1, len(source), 16, 16, 3), dtype=torch.uint8)
    errors = engine.submit(plan, slot).result(60)
    engine.close()
    assert [error is not None for error in errors] == [True, *[False] * 31]


def test_a_beton_cannot_be_turned(lying, contract, tmp_path):
    contract.pack("beton", opened(lying, exif="ignore"), tmp_path)
    with pytest.raises(UserError, match=r"\.beton does not say how its images lie"):
        opened(tmp_path, "beton.beton")
