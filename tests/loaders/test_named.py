"""What words mean that name images, and what is refused."""

import io

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.in_memory import PicturesInMemory
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.index.listed import index_files
from fastsemi.loaders.sources.named import named_images


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working directory, with pictures a to d, a folder, shards and lists."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("abcd"):
        Image.new("RGB", (8 + number, 8), (9, 9, number)).save(f"{name}.png")
    (tmp_path / "more").mkdir()
    Image.new("RGB", (8, 8)).save("more/[e].png")
    for name in ("s-0.tar", "s-1.tar", "x.beton", "x.arrow"):
        (tmp_path / name).write_bytes(b"packed")
    (tmp_path / "list.txt").write_text("b.png\r\n\nmore/[e].png\n", encoding="utf-8-sig")
    (tmp_path / "list.csv").write_text('id;Image Path;label\n1;"c.png";x\n2; a.png ;\n', encoding="utf-8-sig")
    (tmp_path / "list.tsv").write_text("file_name\tlabel\nd.png\t1\n")
    (tmp_path / "split.csv").write_text("path,split\na.png,train\nb.png,unlabeled\nc.png,test\n")
    (tmp_path / "list.jsonl").write_text('{"image": "b.png"}\n{"image": "d.png", "label": 3}\n')
    return tmp_path


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["a.png"], [["a.png"]]),
        (["b.png", "a.png"], [["b.png", "a.png"]]),
        (["a.png", "more", "b.png", "c.png"], [["a.png"], "more", ["b.png", "c.png"]]),
        (["[a-c].png"], [["a.png", "b.png", "c.png"]]),
        (["{d,a}.png"], [["d.png", "a.png"]]),
        (["**/*e*.png"], [["more/[e].png"]]),
        (["more/[e].png"], [["more/[e].png"]]),
        (["s-{0..1}.tar", "a.png"], ["s-{0..1}.tar", ["a.png"]]),
        (["x.beton", "x.arrow"], ["x.beton", "x.arrow"]),
        (["**/s-*.tar"], ["s-0.tar", "s-1.tar"]),
        (["@list.txt"], [["b.png", "more/[e].png"]]),
        (["@list.csv", "@list.tsv"], [["c.png", "a.png", "d.png"]]),
        (["@list.jsonl"], [["b.png", "d.png"]]),
        (["@split.csv"], [["a.png", "b.png", "c.png"]]),
    ],
)
def test_words_mean_sources_in_their_order(words, parts, place):
    assert named_images(words) == parts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["gone.png"], "gone.png does not exist"),
        (["gone*.png"], "no file is called gone"),
        (["list.txt"], "give @list.txt"),
        (["list.jsonl"], "give @list.jsonl"),
        (["@gone.txt"], "list gone.txt cannot be read"),
        (["@more"], "list more cannot be read"),
        (["@one.txt"], "one.txt, line 2 names 'gone.png', which is not in"),
        (["@folder.txt"], "folder.txt, line 1 names a folder"),
        (["@empty.txt"], "names no images"),
        (["@two.csv"], "columns image and file of table two.csv may each be the paths"),
        (["@row.csv"], "row.csv, line 2 names 'gone.png'"),
        (["@none.csv"], "no column of paths"),
        (["@nul.csv"], "nul.csv"),
        (["@long.csv"], "long.csv"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(words, said, place):
    texts = {"one.txt": "a.png\ngone.png", "folder.txt": "more", "empty.txt": "\n\n"}
    texts |= {"two.csv": "image,file\na.png,a.png", "none.csv": "a.png\nb.png"}
    texts |= {"row.csv": "path\ngone.png"}
    texts |= {"nul.csv": "path\na\0.png\n", "long.csv": f'path\n"{"a" * 140_000}"\n'}
    for name, text in texts.items():
        (place / name).write_text(text)
    with pytest.raises(UserError) as caught:
        named_images(words)
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_a_parquet_file_is_a_list_where_it_holds_paths(place):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow: pip install 'fastsemi[parquet]'")
    pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table({"path": ["a.png"]}), "l.parquet")
    assert named_images(["@l.parquet"]) == [["a.png"]]
    with pytest.raises(UserError, match="give @l"):
        named_images(["l.parquet"])


def test_files_that_are_named_are_indexed_as_their_folder_is(place):
    (place / "b.png").write_bytes(b"broken")
    (place / "pipe.png").symlink_to("/dev/zero")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (5, 9)).save("t.jpg", exif=turned)
    whole = build_index(place, has_classes=False)
    names = [str(place / name.decode()) for name in whole.iter_relative()]
    found = index_files(names, max_pixels=10**6)
    assert [found.path(i) for i in range(len(found))] == names
    for name in ("sizes", "labels", "orientation", "broken"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name), err_msg=name)
    assert found.turn(True).sizes[names.index(str(place / "t.jpg"))].tolist() == [9, 5]


def test_pictures_of_a_program_are_those_of_files():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 5, 4), dtype=np.uint8)
    given = [pixels[..., :3], pixels[..., 0], pixels[..., :1], pixels, Image.fromarray(pixels[::2, :, :3])]
    source = PicturesInMemory(given, list("abcde"))
    assert source.index.sizes.tolist() == [[5, 6]] * 4 + [[5, 3]] and source.name(1) == "b"
    decoded = [np.asarray(Image.open(io.BytesIO(file))) for file in source.read(range(5))]
    np.testing.assert_array_equal(decoded[0], pixels[..., :3])
    np.testing.assert_array_equal(decoded[1], np.repeat(pixels[..., :1], 3, axis=2))
    np.testing.assert_array_equal(decoded[2], decoded[1])
    np.testing.assert_array_equal(decoded[4], pixels[::2, :, :3])
    assert decoded[3].shape == (6, 5, 3), "transparent pixels are laid on a colour, as those of files"
    turned = Image.fromarray(pixels[..., :3])
    turned.getexif()[0x0112] = 6
    assert PicturesInMemory([turned], ["t"], exif="apply").index.sizes.tolist() == [[6, 5]]
    for wrong in (pixels / 255, pixels[:, :, :2], pixels[:0], np.zeros((2, 3, 4, 3), np.uint8)):
        with pytest.raises(UserError, match="x is an array of"):
            PicturesInMemory([wrong], ["x"])
    cut = Image.open(io.BytesIO(source.read_one(0)[:-40]))
    with pytest.raises(UserError, match="x cannot be decoded"):
        PicturesInMemory([cut], ["x"])
