"""Images in Parquet files."""

import io
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.open import open_source

pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'fastsemi[parquet]'")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def contents(photo):
    """Encoded images, among them twins and a null."""
    result = []
    for i in range(40):
        buffer = io.BytesIO()
        photo(30 + i, 20, i).save(buffer, "JPEG")
        result.append(buffer.getvalue())
    return [*result, result[3], None, result[39]]


def table(contents, labels=None, features=None):
    image = [None if c is None else {"bytes": c, "path": f"a/{i}.jpg"} for i, c in enumerate(contents)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"image": pa.array(image, kind)}
    if labels is not None:
        columns["label"] = pa.array(labels)
    made = pa.table(columns)
    if features:
        made = made.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    return made


def open_parquet(root, what="", has_classes=True) -> Source:
    return open_source(root, what, has_classes=has_classes, max_pixels=10**6)


OPTIONS = {
    "default": {},
    "plain": {"compression": "none", "use_dictionary": False},
    "dictionary_none": {"compression": "none"},
    "groups": {"row_group_size": 7},
    "pages": {"data_page_size": 2000, "write_batch_size": 3, "use_dictionary": False},
    "small_dictionary": {"dictionary_pagesize_limit": 4000, "write_batch_size": 2, "data_page_size": 4000},
    "zstd": {"compression": "zstd"},
    "gzip": {"compression": "gzip", "use_dictionary": False},
    "version_2_plain": {"data_page_version": "2.0", "compression": "none"},
}


@pytest.mark.parametrize("options", OPTIONS)
def test_bytes_of_every_way_to_write(tmp_path, contents, options):
    labels = [i % 3 for i in range(len(contents))]
    pq.write_table(table(contents, labels), tmp_path / "a.parquet", **OPTIONS[options])
    source = open_parquet(tmp_path)
    result = source.read(range(len(contents)))
    assert isinstance(result[41], BadImageError) and "41" in result[41].path
    assert [r for r in result if isinstance(r, bytes)] == [c for c in contents if c is not None]
    assert source.index.broken.tolist() == [41]
    assert source.index.labels.tolist() == labels and source.size(5) == (35, 20)
    assert source.name(5) == str(tmp_path / "a.parquet" / "5" / "5.jpg")


def test_encodings_without_random_access_are_refused(tmp_path, contents):
    pq.write_table(table(contents[:4]), tmp_path / "a.parquet", data_page_version="2.0", use_dictionary=False)
    with pytest.raises(UserError, match="write_table"):
        open_parquet(tmp_path, has_classes=False)


def test_several_files_and_class_names(tmp_path, contents):
    features = {"image": {"_type": "Image"}, "kind": {"_type": "Value"}}
    features["label"] = {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}
    for i in range(3):
        made = table(contents[10 * i : 10 * i + 10], [j % 2 for j in range(10)], features)
        pq.write_table(made, tmp_path / f"train-{i}-of-3.parquet")
    source = open_parquet(tmp_path, "train-*.parquet")
    assert source.index.classes == ("cat", "dog", "owl")
    assert source.read(range(30)) == contents[:30]
    assert source.name(12) == str(tmp_path / "train-1-of-3.parquet" / "2" / "2.jpg")


def test_names_as_classes(tmp_path, contents):
    pq.write_table(table(contents[:4], ["dog", "cat", "dog", "owl"]), tmp_path / "a.parquet")
    index = open_parquet(tmp_path, "a.parquet").index
    assert index.classes == ("cat", "dog", "owl") and index.labels.tolist() == [1, 0, 1, 2]


def test_wrong_files_say_so(tmp_path, contents):
    (tmp_path / "text.parquet").write_text("no parquet")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    pq.write_table(table(contents[:4]), tmp_path / "unlabelled.parquet")
    pq.write_table(table(contents[:2], [-1, 0]), tmp_path / "minus.parquet")
    for name, message in (
        ("text", "text.parquet"),
        ("other", "no column of structs"),
        ("unlabelled", "no class"),
        ("minus", "-1"),
    ):
        with pytest.raises(UserError, match=message):
            open_parquet(tmp_path, f"{name}.parquet")
    assert len(open_parquet(tmp_path, "minus.parquet", has_classes=False)) == 2


def test_without_pyarrow_the_cure_is_named(tmp_path, contents, monkeypatch):
    pq.write_table(table(contents[:4]), tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'fastsemi\[parquet\]'"):
        open_parquet(tmp_path)


@pytest.mark.parametrize("options", ["default", "plain"])
def test_threads_handles_and_damage(tmp_path, contents, options):
    pq.write_table(table(contents[:40]), tmp_path / "a.parquet", **OPTIONS[options])
    source = open_parquet(tmp_path, has_classes=False)
    ids = np.random.default_rng(0).integers(0, 40, 400).tolist()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.read_one, ids)) == [contents[i] for i in ids]
    index = source.index
    file, offset, length = index.files[index.file[20]], int(index.offset[20]), int(index.length[20])
    with open(file, "r+b") as damaged:
        damaged.seek(offset)
        damaged.write(b"\xff" * min(64, length))
    if options == "default":
        with pytest.raises(BadImageError, match="20"):
            source.read_one(20)
    source.close()
    links = (os.path.join("/proc/self/fd", fd) for fd in os.listdir("/proc/self/fd"))
    assert not [link for link in links if os.path.lexists(link) and os.readlink(link) == file]


@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_arrow_files_of_save_to_disk(tmp_path, contents, new):
    features = {"label": {"_type": "ClassLabel", "names": ["cat", "dog", "owl"]}}
    labels = [i % 3 for i in range(len(contents))]
    made = table(contents, labels, features)
    for part, rows in enumerate((made.slice(0, 20), made.slice(20))):
        with new(str(tmp_path / f"data-{part:05}-of-00002.arrow"), made.schema) as file:
            file.write_table(rows, max_chunksize=7)
    for name in ("state.json", "dataset_info.json"):
        (tmp_path / name).write_text("{}")
    source = open_parquet(tmp_path)
    assert source.index.classes == ("cat", "dog", "owl") and source.index.labels.tolist() == labels
    result = source.read(range(len(contents)))
    assert [r for r in result if isinstance(r, bytes)] == [c for c in contents if c is not None]
    assert isinstance(result[41], BadImageError) and source.size(25) == (55, 20)
    assert source.name(25) == str(tmp_path / "data-00001-of-00002.arrow" / "5" / "25.jpg")


def test_wrong_arrow_files_say_so(tmp_path, contents):
    (tmp_path / "text.arrow").write_text("no arrow")
    elsewhere = table([None, None]).set_column(
        0, "image", pa.array([{"bytes": None, "path": "/x/1.jpg"}] * 2, table([None]).schema[0].type)
    )
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    for name, rows, how in (
        ("other", pa.table({"x": [1]}), None),
        ("compressed", table(contents[:4]), options),
        ("paths", elsewhere, None),
    ):
        with pa.ipc.new_stream(str(tmp_path / f"{name}.arrow"), rows.schema, options=how) as file:
            file.write_table(rows)
    pq.write_table(elsewhere, tmp_path / "paths.parquet")
    for name, message in (
        ("text.arrow", "cannot read Arrow file"),
        ("other.arrow", "no column of structs"),
        ("compressed.arrow", "is compressed"),
        ("paths.arrow", r"holds paths of images \(/x/1.jpg\) and not their bytes"),
        ("paths.parquet", r"holds paths of images \(/x/1.jpg\) and not their bytes"),
    ):
        with pytest.raises(UserError, match=message):
            open_parquet(tmp_path, name, has_classes=False)
