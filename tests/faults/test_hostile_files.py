"""Files that are no images, or not what they seem: each an error, or the right pixels."""

import io
import os
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.reference import decode_rgb
from fastsemi.loaders.engines.rgb import BACKGROUND, to_rgb
from fastsemi.loaders.sources.open import open_source

LARGE = 10**8


def decode(path):
    return np.asarray(decode_rgb(path.read_bytes(), str(path), LARGE)).astype(int)


def test_the_white_of_a_grey_picture_is_that_of_its_bits(tmp_path):
    """Two pixels of 12 bits in 3 bytes, and 8-bit values in 32-bit integers."""
    values = [(256, 3, 1, 2), (257, 3, 1, 1), (258, 3, 1, 12), (259, 3, 1, 1), (262, 3, 1, 1)]
    values += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 3, 1, 1), (279, 4, 1, 3)]
    entries = b"".join(
        struct.pack("<HHIHH" if kind == 3 else "<HHII", *row, *([0] if kind == 3 else []))
        for row in values
        for kind in (row[1],)
    )
    head = struct.pack("<2sHI", b"II", 42, 12) + bytes([0x80, 0x0F, 0xFF, 0])
    path = tmp_path / "twelve.tif"
    path.write_bytes(head + struct.pack("<H", len(values)) + entries + bytes(4))
    with Image.open(path) as image:
        assert np.asarray(to_rgb(image))[0, :, 0].tolist() == [round(0x800 / 0xFFF * 255), 255]
    small = np.array([[0, 7, 255]], np.int32)
    Image.fromarray(small).save(tmp_path / "small.tif")
    with Image.open(tmp_path / "small.tif") as image:
        assert np.asarray(to_rgb(image))[..., 0].tolist() == small.tolist()


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_deep_grey_is_scaled_and_not_cut(tmp_path, suffix):
    deep = np.array([[0, 257, 25_700], [32_767, 65_278, 65_535]], np.uint16)
    path = tmp_path / f"x{suffix}"
    Image.fromarray(deep).save(path)
    wanted = np.array([[0, 1, 100], [127, 254, 255]])
    assert (decode(path) == wanted[:, :, None]).all()


@pytest.mark.parametrize(
    ("values", "wanted"), [([0, 0.5, 1, -1], [0, 128, 255, 0]), ([0, 100, 300, 2], [0, 100, 255, 2])]
)
def test_floats_are_fractions_or_levels(tmp_path, values, wanted):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([values], np.float32)).save(path)
    assert decode(path)[0, :, 0].tolist() == wanted


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_show_the_background_and_not_what_alpha_hides(tmp_path, mode):
    pixels = np.zeros((1, 3, 4), np.uint8)
    pixels[0, :, :3] = 200
    pixels[0, :, 3] = (0, 255, 128)
    image, path = Image.fromarray(pixels, "RGBA"), tmp_path / "x.png"
    if mode == "P":
        image = Image.fromarray(np.array([[0, 1, 1]], np.uint8), "P")
        image.putpalette([200] * 6)
        image.save(path, transparency=0)
    else:
        image.convert(mode).save(path)
    found = decode(path)[0]
    assert found[0].tolist() == list(BACKGROUND) and found[1].tolist() == [200] * 3
    if mode != "P":
        assert np.abs(found[2] - (200 + np.array(BACKGROUND)) / 2).max() <= 1


def test_a_file_that_would_start_a_program_is_no_image(tmp_path, monkeypatch):
    """EPS: Pillow hands it to Ghostscript, whatever the file is called."""
    path = tmp_path / "x.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(BadImageError):
        decode_rgb(path.read_bytes(), str(path), LARGE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two classes of two pictures each, and a pipe and a device link that call themselves pictures."""
    monkeypatch.setenv("FASTSEMI_CACHE", str(tmp_path / "cache"))
    for i, name in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png")):
        path = tmp_path / "train" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40), (10 * i, 0, 0)).save(path)
    os.mkfifo(tmp_path / "train/a/pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "train/b/zero.jpg")
    return tmp_path


SCRIPT = """
import sys
from pathlib import Path
from fastsemi.loaders.bad_images import BadImages
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.stream import evaluation_batches

config = DataConfig(root=Path(sys.argv[1]), labels=LabelsConfig(per_class=1), image_size=32, max_bad=9)
for engine in sys.argv[2:]:
    data = Data(config, LoaderConfig(engine=engine, threads=2))
    images = data.train
    plans = evaluation_batches(images.index, images.ids, 3, 1.0)
    with data.load(images, plans, allow_empty=True) as loader:
        for batch in loader:
            pass
    print(engine, *sorted(Path(path).name for path in data.bad.paths), flush=True)
"""
ENGINES = ("reference", "thread_pool", "native")


def broken(folder):
    """What each engine finds broken, in a process that a read that never returns would hold up."""
    words = [sys.executable, "-c", SCRIPT, str(folder), *ENGINES]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    return [line.split() for line in done.stdout.splitlines()]


def test_a_pipe_and_a_device_are_broken_images_and_hold_nothing_up(folder):
    assert broken(folder) == [[engine, "pipe.jpg", "zero.jpg"] for engine in ENGINES]


def test_a_file_that_becomes_a_pipe_after_it_was_indexed_holds_nothing_up(folder):
    for name in ("a/pipe.jpg", "b/zero.jpg"):
        (folder / "train" / name).unlink()
    open_source(folder, "train", has_classes=True, max_pixels=LARGE)
    picture = folder / "train/a/1.png"
    times = os.stat(picture.parent)
    picture.unlink()
    os.mkfifo(picture)
    os.utime(picture.parent, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert broken(folder) == [[engine, "1.png"] for engine in ENGINES]


def test_an_archive_that_is_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "train.tar")
    with pytest.raises(UserError, match=r"train\.tar is (not a regular file|neither a folder)"):
        open_source(tmp_path, "train.tar", has_classes=True, max_pixels=LARGE)


@pytest.mark.parametrize("number", ["1000000", "1000000000000000000"])
def test_a_class_number_that_is_none_is_refused_before_memory_is_taken_for_it(folder, number):
    with tarfile.open(folder / "train.tar", "w") as tar:
        tar.add(folder / "train/a/1.png", "1.png")
        (folder / "cls").write_text(number)
        tar.add(folder / "cls", "1.cls")
    with pytest.raises(UserError, match=f"class {number} .* is too large"):
        open_source(folder, "train.tar", has_classes=True, max_pixels=LARGE)


@pytest.mark.parametrize("size", [2**62, 2**70])
@pytest.mark.parametrize("name", ["1.cls", "1.png"])
def test_a_tar_whose_member_claims_a_size_that_none_has_is_refused(folder, size, name):
    member = tarfile.TarInfo(name)
    member.size = size
    (folder / "train.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(UserError, match=r"train\.tar"):
        open_source(folder, "train.tar", has_classes=True, max_pixels=LARGE)


def parquet(folder):
    pa = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'fastsemi[parquet]'")
    pq = pytest.importorskip("pyarrow.parquet")
    images = pa.array(
        [{"bytes": (folder / "train/a/1.png").read_bytes()}] * 2, pa.struct([("bytes", pa.binary())])
    )
    path = folder / "train.parquet"
    pq.write_table(
        pa.table({"image": images, "label": [0, 1]}), path, compression="none", use_dictionary=False
    )
    return path, pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset


# A page header in Thrift's compact protocol: fields 1 (kind), 2 and 3 (lengths) as zigzag numbers.
@pytest.mark.parametrize("header", [b"\x00", b"\x15\x00\x15\x02\x15\x01\x00", b"\x1c" * 9, b"\x1f"])
def test_a_parquet_file_with_damaged_pages_is_refused(folder, header, monkeypatch):
    from fastsemi.loaders.sources import parquet_scan

    path, at = parquet(folder)
    content = bytearray(path.read_bytes())
    content[at : at + len(header)] = header
    whole = path.read_bytes()
    read = parquet_scan.pages

    def pages(name, fd, chunk):  # pyarrow, which reads the values, refuses most damage before
        path.write_bytes(bytes(content))
        yield from read(name, fd, chunk)

    monkeypatch.setattr(parquet_scan, "pages", pages)
    with pytest.raises(UserError, match=r"train\.parquet|Parquet page"):
        open_source(folder, "train.parquet", has_classes=True, max_pixels=LARGE)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    "content", [b"[1]", b'{"names": 1, "classes": []}', b'{"names": [1], "classes": ["a"]}', b"[" * 99_999]
)
def test_a_beton_whose_names_are_none_is_refused(folder, content):
    from fastsemi.loaders.sources.beton_format import FIELD, HEADER, INT_FIELD, NAMES_MAGIC
    from fastsemi.loaders.write_beton import Encoding, write_beton

    for name in ("a/pipe.jpg", "b/zero.jpg"):
        (folder / "train" / name).unlink()
    source = open_source(folder, "train", has_classes=True, max_pixels=LARGE)
    path = folder / "x.beton"
    write_beton(path, source, source.index, encoding=Encoding("raw", max_side=0), max_pixels=LARGE)
    data = bytearray(path.read_bytes())
    fields = np.frombuffer(data, FIELD, 2, HEADER.itemsize).copy()
    label = fields["type_id"].tolist().index(INT_FIELD)
    place = NAMES_MAGIC + struct.pack("<QQ", len(data), len(content))
    fields["arguments"][label, : len(place)] = np.frombuffer(place, np.uint8)
    data[HEADER.itemsize : HEADER.itemsize + fields.nbytes] = fields.tobytes()
    count = -len(content) % 24  # the table of allocations reaches to the end of the file
    path.write_bytes(bytes(data) + content + bytes(count))
    with pytest.raises(
        UserError, match=r"x\.beton is no complete \.beton file \((its names|maximum recursion)"
    ):
        open_source(folder, "x.beton", has_classes=True, max_pixels=LARGE)


def tar(folder, *members, headers=None):
    """A shard of one picture, and members of other kinds."""
    with tarfile.open(folder / "train.tar", "w", format=tarfile.PAX_FORMAT) as shard:
        shard.add(folder / "train/a/1.png", "1.png")
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = len(content), headers or {}
            shard.addfile(member, io.BytesIO(content))


def refused(folder, what, message):
    with pytest.raises(UserError, match=message) as caught:
        open_source(folder, what, has_classes=True, max_pixels=LARGE)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("1.json", b"[" * 100_000, r"image 1\.png in .* has no class"),
        ("1.json", b'{"cls": ' * 100_000, r"image 1\.png in .* has no class"),
        ("1.json", b'{"cls": -1%s}' % (b"0" * 30), r"class -10{30} of an image in .* is not one of"),
        (
            "1.cls",
            b"1" + b"0" * 30,
            r"class 10{19}\.\.\. \(31 digits\) of 1\.cls in .* is too large",
        ),
        ("1.cls", b"7" * 5000, r"class 7{20}\.\.\. \(5,000 digits\) of 1\.cls in .* is too large; number"),
    ],
)
def test_classes_of_a_tar_that_are_none_are_refused(folder, name, content, message):
    tar(folder, (name, content))
    refused(folder, "train.tar", message)


def test_a_class_with_zeros_before_it_is_its_number(folder):
    tar(folder, ("1.cls", b"0" * 5000 + b"2"))
    assert open_source(folder, "train.tar", has_classes=True, max_pixels=LARGE).index.labels.tolist() == [2]


def test_a_tar_of_headers_without_end_is_refused(folder):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    block = header.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")
    (folder / "train.tar").write_bytes(block * 20_000 + bytes(1024))
    refused(folder, "train.tar", r"train\.tar is no complete, uncompressed tar \(")


@pytest.mark.parametrize("name", ["2.png", "1.cls"])
def test_a_member_without_its_zeros_is_refused(folder, name):
    """As `tar --sparse` writes one: 8 zeros and a byte, of which the byte is stored."""
    sparse = {"GNU.sparse.map": "8,1", "GNU.sparse.size": "9"}
    tar(folder, (name, b"1"), headers=sparse)
    refused(folder, "train.tar", rf"{name} in .* is stored without its zeros \(tar --sparse\)")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (b"caf\xe9\n", r"classes\.txt is no text in UTF-8 \(.*; write it again as UTF-8"),
        (b"crane\nlion\ncrane\n", r"class crane is 2 of the 3 classes that .* give each class a name of its"),
    ],
)
def test_names_of_classes_that_are_none_are_refused(folder, names, message):
    tar(folder, ("1.cls", b"crane"))
    (folder / "classes.txt").write_bytes(names)
    refused(folder, "train.tar", message)


def test_two_classes_of_one_name_may_be_told_by_their_numbers(folder):
    """As the cranes of ImageNet."""
    tar(folder, ("1.cls", b"2"))
    (folder / "classes.txt").write_bytes(b"\xef\xbb\xbfcrane\nlion\ncrane\n")
    index = open_source(folder, "train.tar", has_classes=True, max_pixels=LARGE).index
    assert index.classes == ("crane", "lion", "crane") and index.labels.tolist() == [2]


LABEL = '{"info": {"features": {"label": {"_type": "ClassLabel", "names": %s}}}}'


@pytest.mark.parametrize(
    "metadata",
    [
        "{",
        "[1]",
        "7",
        '{"info": [1]}',
        '{"info": {"features": 3}}',
        LABEL % "3",
        LABEL % "[1, 2]",
        "[" * 99_999,
    ],
)
def test_odd_metadata_of_a_parquet_file_is_named(folder, metadata):
    path, _ = parquet(folder)
    rewrite(path, lambda table: table.replace_schema_metadata({"huggingface": metadata}))
    refused(folder, "train.parquet", r"the metadata huggingface in .*train\.parquet does not describe")


@pytest.mark.parametrize("metadata", ["{}", LABEL.replace(', "names": %s', ""), LABEL % "null"])
def test_metadata_without_names_leaves_the_numbers(folder, metadata):
    path, _ = parquet(folder)
    rewrite(path, lambda table: table.replace_schema_metadata({"huggingface": metadata}))
    index = open_source(folder, "train.parquet", has_classes=True, max_pixels=LARGE).index
    assert index.classes == ("0", "1") and index.labels.tolist() == [0, 1]


def rewrite(path, change):
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(change(pq.read_table(path)), path, compression="none", use_dictionary=False)


def test_columns_of_other_types_are_named(folder):
    path, _ = parquet(folder)
    pa = pytest.importorskip("pyarrow")
    whole = path.read_bytes()
    labels = pa.array([0.5, None])
    rewrite(path, lambda table: table.set_column(1, "label", labels))
    refused(folder, "train.parquet", r"column label in .*, the classes, is of the type double; write whole")
    labels = pa.array([True, False])
    rewrite(path, lambda table: table.set_column(1, "label", labels))
    index = open_source(folder, "train.parquet", has_classes=True, max_pixels=LARGE).index
    assert index.labels.tolist() == [1, 0]
    path.write_bytes(whole)
    images = pa.array([{"bytes": 1}, {"bytes": 2}])
    rewrite(path, lambda table: table.set_column(0, "image", images))
    refused(folder, "train.parquet", r"field bytes of column image in .* is of the type int64; write the enc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("x" * 140_000 + ",Index\n1,1\n", r"cannot be read: field larger than field limit \(131072\)"),
        ("Index\n" + "x" * 140_000 + "\n", r"cannot be read: field larger than field limit \(131072\)"),
        ("Index\n" + "9" * 5000 + "\n", r"line 2: index 9{20} is beyond the data"),
        ("Index\n-" + "9" * 5000 + "\n", r"line 2: index -9{19} is beyond the data"),
        ("Index\n1\0\n", r"line 2: '1\\x00' is not a position"),
        ("Index\n" + "x" * 5000 + "\n", r"line 2: 'x{100}' is not a position"),
        ("\0\n", "has no column Index"),
        (None, r"cannot read label index file .*: Invalid argument|not a regular file"),
    ],
)
def test_label_files_that_are_none_are_refused(folder, content, message):
    from fastsemi.loaders.index.labels import select_labelled

    index = open_source(folder, "train", has_classes=True, max_pixels=LARGE).index
    path = folder / "labels.csv"
    if content is None:
        os.mkfifo(path)
    else:
        path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        select_labelled(index, index_file=path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
