"""Every engine over every source: broken files are named, and closing leaves nothing behind."""

import gc
import os
import re

import pytest
import torch

from fastsemi.common.errors import BadImageError
from fastsemi.loaders.engines.choose import create_engine
from fastsemi.loaders.prefetch import Prefetcher


def small(tmp_path, photo, contract, count=6):
    """A folder source of JPEGs of 60 x 50 pixels."""
    for i in range(count):
        contract.save(tmp_path / "set" / "a", f"{i}.jpg", photo(60, 50, i))
    return contract.open_images(tmp_path / "set")


def damage(source, kind, i):
    """Overwrite the head of an image, or cut the file off inside of stored pixels."""
    if kind == "folder":
        with open(source.path(i), "wb") as file:
            file.write(b"no image at all")
        return
    index = source.index
    path, offset, length = index.files[index.file[i]], int(index.offset[i]), int(index.length[i])
    if kind == "beton_raw":
        os.truncate(path, offset + length // 2)
        return
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"?" * 200)


def test_broken_images_give_an_error_with_their_path(engine, kind, tmp_path, photo, contract):
    source = contract.pack(kind, small(tmp_path, photo, contract), tmp_path)
    broken = (5,) if kind == "beton_raw" else (1, 4)
    for i in broken:
        damage(source, kind, i)
    running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**6)
    plan = contract.whole(source.index)
    slot = torch.zeros((1, 6, contract.SIZE, contract.SIZE, 3), dtype=torch.uint8)
    for _ in range(3):  # the engine goes on after an error
        errors = running.submit(plan, slot).result(60)
        for i, error in enumerate(errors):
            if i in broken:
                assert isinstance(error, BadImageError) and error.path == source.name(i)
            else:
                assert error is None and slot[0, i].float().std() > 5
    running.close()


def test_a_broken_image_stops_the_loader_with_its_path(engine, kind, tmp_path, photo, contract):
    source = contract.pack(kind, small(tmp_path, photo, contract), tmp_path)
    damage(source, kind, 5)
    plans = [contract.stream(source.index, batch=3).plan(step, 0) for step in range(2)]
    running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**6)
    with pytest.raises(BadImageError, match=re.escape(source.name(5))) as error:
        with Prefetcher(running, plans, timeout=60) as batches:
            list(batches)
    assert "\n" not in str(error.value)
    running.close()


@pytest.mark.sources("folder")
def test_truncated_and_changed_files_give_an_error_with_their_path(engine, kind, tmp_path, photo, contract):
    source = small(tmp_path, photo, contract, 4)
    folder = tmp_path / "set" / "a"
    truncated = folder / "1.jpg"
    truncated.write_bytes(truncated.read_bytes()[:700])
    (folder / "2.jpg").unlink()
    photo(61, 50).save(folder / "3.jpg")  # another size than indexed
    running = create_engine(engine, source, image_size=contract.SIZE, threads=2, max_pixels=10**6)
    slot = torch.zeros((1, 4, contract.SIZE, contract.SIZE, 3), dtype=torch.uint8)
    errors = running.submit(contract.whole(source.index), slot).result(30)
    running.close()
    assert errors[0] is None
    for i in (1, 2, 3):
        assert str(folder / f"{i}.jpg") in str(errors[i])
    assert "reindex" in str(errors[3])


def test_oversized_images_are_refused(engine, kind, tmp_path, photo, contract):
    contract.save(tmp_path / "set" / "a", "0.png", photo(100, 100))
    source = contract.pack(kind, contract.open_images(tmp_path / "set"), tmp_path)
    running = create_engine(engine, source, image_size=contract.SIZE, threads=1, max_pixels=9_999)
    slot = torch.zeros((1, 1, contract.SIZE, contract.SIZE, 3), dtype=torch.uint8)
    errors = running.submit(contract.whole(source.index), slot).result(30)
    running.close()
    assert "max_pixels" in str(errors[0])


def _resident():
    """Memory of this process in MB."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


@pytest.mark.slow
def test_closing_leaves_nothing(engine, kind, tmp_path, photo, contract, held):
    opened = contract.pack(kind, small(tmp_path, photo, contract, 16), tmp_path)
    index = opened.index
    cut = contract.stream(index, batch=4)
    plans = [cut.plan(step, 0) for step in range(4)]

    def cycles(count):
        for cycle in range(count):
            source = type(opened)(index)
            running = create_engine(engine, source, image_size=16, threads=4, max_pixels=10**7)
            with Prefetcher(running, iter(plans), depth=2, timeout=60) as batches:
                if cycle % 3:  # else closed before anything came
                    next(batches)
            running.close()
        del source, running, batches
        gc.collect()

    cycles(3)
    before, grown = held(), []
    while not grown or (grown[-1] > 2 and len(grown) < 4):  # a leak grows each time, pools once
        memory = _resident()
        cycles(9)
        grown.append(_resident() - memory)
    before.assert_nothing_more()
    assert grown[-1] <= 2, grown
