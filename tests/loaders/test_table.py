"""Tables of paths and labels: dialects, which images they mean, what is refused."""

import json
import logging
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.index import build_index
from fastsemi.loaders.index.labels import select_labelled
from fastsemi.loaders.index.table import has_columns, read_columns, read_table
from fastsemi.loaders.index.table_index import build_table_index

NAMES = ("a.png", "b.png", "c.png", "d.png")


@pytest.fixture
def flat(tmp_path):
    """A folder of four pictures of different width."""
    root = tmp_path / "flat"
    root.mkdir()
    for i, name in enumerate(NAMES):
        Image.new("RGB", (10 + i, 8)).save(root / name)
    return root


def write(folder, text, name="labels.csv", encoding="utf-8"):
    file = folder / name
    file.write_bytes(text.encode(encoding))
    return file


def labels_of(index):
    """The class of each image by its name; None for none."""
    return {
        index.relative_path(i): index.classes[label] if label >= 0 else None
        for i, label in enumerate(index.labels)
    }


WANTED = {"a.png": "cat", "b.png": "dog, small", "c.png": None}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'path,label\na.png,cat\nb.png,"dog, small"\nc.png,\n'),
        ("t.csv", '\ufeffpath,label\r\na.png,cat\r\nb.png,"dog, small"\r\n\r\nc.png,\r\n'),
        ("t.csv", "Label;File Name;x\ncat;a.png;1\ndog, small;b.png;2\n;c.png;\n"),
        ("t.csv", 'x|image|target\n1|"a.png"|cat\n2|b.png| dog, small \n3|c.png|'),
        ("t.csv", "file\tcategory\ra.png\tcat\rb.png\tdog, small\rc.png\t\r"),
        ("t.tsv", "filename\tclass\na.png\tcat\nb.png\tdog, small\nc.png\t\n"),
        ("t.csv", ',path,label,target\n0,./a.png,cat,7\n1,../flat/b.png,"dog, small",8\n2,c.png,,9\n'),
        (
            "metadata.jsonl",
            '{"file_name": "a.png", "label": "cat"}\n\n{"label": "dog, small", "file_name": "b.png"}\n'
            '{"file_name": "c.png", "label": null}\n',
        ),
    ],
)
def test_dialects(flat, name, text):
    index = build_table_index(write(flat, text, name), has_classes=True)
    assert labels_of(index) == WANTED and index.classes == ("cat", "dog, small")
    assert [index.relative_path(i) for i in range(3)] == ["a.png", "b.png", "c.png"]
    assert np.asarray(index.sizes)[:, 0].tolist() == [10, 11, 12] and index.root == flat


def test_parquet_with_text_and_with_hugging_faces_numbers(flat):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    table = pa.table({"path": list(NAMES[:3]), "label": ["cat", "dog, small", None]})
    pq.write_table(table, flat / "a.parquet")
    assert labels_of(build_table_index(flat / "a.parquet", has_classes=True)) == WANTED
    feature = {"_type": "ClassLabel", "names": ["cat", "dog, small", "never seen"]}
    numbers = pa.table({"path": list(NAMES[:3]), "label": [0, 1, -1]}).replace_schema_metadata(
        {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}
    )
    pq.write_table(numbers, flat / "b.parquet")
    assert labels_of(build_table_index(flat / "b.parquet", has_classes=True)) == WANTED
    wrong = numbers.set_column(1, "label", pa.array([0, 3, -1]))
    pq.write_table(wrong, flat / "wrong.parquet")
    with pytest.raises(UserError, match=r"wrong\.parquet, row 2, label: class 3, .* names 3 classes"):
        build_table_index(flat / "wrong.parquet", has_classes=True)
    for kind in (pa.binary(), pa.large_binary()):
        columns = {"image": pa.array([b"a.png"], kind), "label": ["cat"]}
        pq.write_table(pa.table(columns), flat / "bytes.parquet")
        assert not has_columns(flat / "bytes.parquet"), "bytes may be images"
        pq.write_table(pa.table({**columns, "path": ["b.png"]}), flat / "bytes.parquet")
        assert labels_of(build_table_index(flat / "bytes.parquet", has_classes=True)) == {"b.png": "cat"}
    pictures = pa.array([{"bytes": b"x", "path": "a.png"}])
    pq.write_table(pa.table({"image": pictures, "label": [0], "path": ["a.png"]}), flat / "c.parquet")
    assert has_columns(flat / "a.parquet") and not has_columns(flat / "c.parquet"), "the images themselves"
    with pytest.raises(UserError, match=r"row 2: image .*/x.png does not exist"):
        pq.write_table(pa.table({"path": ["a.png", "x.png"], "label": [1.0, 2.0]}), flat / "d.parquet")
        build_table_index(flat / "d.parquet", has_classes=True)


def test_whole_numbers_are_in_the_order_of_numbers_and_gaps_make_no_class(flat):
    index = build_table_index(
        write(flat, "path,label\na.png,10\nb.png,9.0\nc.png,9\nd.png,\n"), has_classes=True
    )
    assert index.classes == ("9", "10") and labels_of(index) == dict(
        zip(NAMES, ("10", "9", "9", None), strict=True)
    )
    assert [index.relative_path(i)[0] for i in range(4)] == ["b", "c", "a", "d"], "by class, then by name"
    index = build_table_index(write(flat, "path,label\na.png,010\nb.png,9x\nc.png,9\n"), has_classes=True)
    assert index.classes == ("010", "9", "9x"), "as text"


def test_the_order_of_rows_is_none_of_images(flat):
    lines = ["a.png,x", "b.png,y", "c.png,x", "d.png,"]
    first = build_table_index(write(flat, "\n".join(["path,label", *lines])), has_classes=True)
    other = build_table_index(
        write(flat, "\n".join(["path,label", *lines[::-1]]), "other.csv"), has_classes=True
    )
    assert first.path_blob.tobytes() == other.path_blob.tobytes()
    assert first.labels.tolist() == other.labels.tolist() == [0, 0, 1, -1]


def test_accents_joined_or_apart_and_backslashes_find_their_files(flat):
    apart = unicodedata.normalize("NFD", "Müll.png")
    for folder in ("", "räume"):
        (flat / folder).mkdir(exist_ok=True)
        Image.new("RGB", (5, 5)).save(flat / folder / apart)
    text = "path,label\nMüll.png,Bär\nräume\\Müll.png," + unicodedata.normalize("NFD", "Bär") + "\n"
    file = write(flat, text)
    for tree in (None, flat):
        index = build_table_index(file, has_classes=True, tree=tree)
        assert index.classes == ("Bär",) and index.labels.tolist()[:2] == [0, 0]
        assert [index.relative_path(i) for i in range(2)] == [apart, f"räume/{apart}"]


def test_absolute_paths_may_lie_elsewhere(flat, tmp_path):
    Image.new("RGB", (5, 5)).save(tmp_path / "z.png")
    file = write(flat, f"path,label\n{flat}/b.png,x\n{tmp_path}/z.png,y\n")
    index = build_table_index(file, has_classes=True)
    assert index.paths([0, 1]) == [str(flat / "b.png"), str(tmp_path / "z.png")]
    assert index.relative_path(0) == "b.png"


def test_images_of_a_folder_that_no_row_names_have_no_label(flat, tmp_path, caplog):
    (flat / "deep").mkdir()
    os.rename(flat / "d.png", flat / "deep" / "d.png")
    file = write(tmp_path, "image,class\nd.png,x\nflat/b.png,y\n", "elsewhere.csv")
    with caplog.at_level(logging.INFO, logger="fastsemi.loaders"):
        index = build_table_index(file, has_classes=True, tree=flat)
    assert labels_of(index) == {"deep/d.png": "x", "b.png": "y", "a.png": None, "c.png": None}
    assert index.labels.tolist() == [0, 1, -1, -1]
    assert "paths from column image, labels from class; 2 images of 2 classes, 2 without label" in caplog.text
    assert select_labelled(index, index_file=file).tolist() == [0, 1]
    assert select_labelled(index, per_class=1).tolist() == [0, 1]
    listed = write(tmp_path, "a.png\n", "list.txt")
    with pytest.raises(UserError, match=r"a\.png has no label"):
        select_labelled(index, index_file=listed)
    write(tmp_path, "image_id,class\nd,x\na,y\n", "elsewhere.csv")
    assert build_table_index(file, has_classes=True, tree=flat).labels.tolist() == [0, 1, -1, -1]
    inside = write(flat, "path,label\na.png,x\n")
    assert build_table_index(inside, has_classes=True, tree=flat).skipped == {}, "the table is no odd file"
    os.rename(flat / "c.png", flat / "deep" / "a.png")
    write(tmp_path, "path,label\na.png,x\n", "elsewhere.csv")
    assert labels_of(build_table_index(file, has_classes=True, tree=flat))["a.png"] == "x"
    os.rename(flat / "a.png", flat / "deep" / "b.png")
    write(tmp_path, "path,label\nb.png,x\n", "elsewhere.csv")
    os.rename(flat / "b.png", flat / "x.png")
    os.mkdir(flat / "more")
    os.rename(flat / "x.png", flat / "more" / "b.png")
    with pytest.raises(UserError, match=r"line 2: 'b.png' is the name of several images .*; give the path"):
        build_table_index(file, has_classes=True, tree=flat)


def test_the_index_is_built_again_when_the_table_or_a_folder_changes(flat):
    file = write(flat, "path,label\na.png,x\nb.png,y\n")
    first = build_table_index(file, has_classes=True)
    again = build_table_index(file, has_classes=True)
    assert isinstance(again.labels.base, np.memmap) and first.labels.tolist() == again.labels.tolist()
    status = os.stat(file)
    write(flat, "path,label\na.png,y\nb.png,x\n")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # of the same length, at the same time
    assert labels_of(build_table_index(file, has_classes=True)) == {"a.png": "y", "b.png": "x"}
    os.unlink(flat / "b.png")
    with pytest.raises(UserError, match=r"line 3: image .*/b.png does not exist"):
        build_table_index(file, has_classes=True)


def test_parts(flat):
    rows = "path,label,Split\na.png,x,train\nb.png,y,TEST\nc.png,y,unlabelled\nd.png,y,training\n"
    file = write(flat, rows)
    parts = {
        part: labels_of(build_table_index(file, has_classes=part != "unlabeled", part=part))
        for part in ("train", "val", "unlabeled")
    }
    assert parts == {
        "train": {"a.png": "x", "d.png": "y", "c.png": None},
        "val": {"b.png": "y"},
        "unlabeled": {"c.png": None},
    }
    tree = build_table_index(file, has_classes=True, part="train", tree=flat)
    assert labels_of(tree) == parts["train"], "those to evaluate on are not among those without label"
    with pytest.raises(UserError, match="has a column split; say whose rows"):
        build_table_index(file, has_classes=True)
    write(flat, rows + "x.png,y,val\n")
    assert labels_of(build_table_index(file, has_classes=True, part="train")) == parts["train"]
    with pytest.raises(UserError, match=r"line 6: image .*/x.png does not exist"):
        build_table_index(file, has_classes=True, part="val")
    with pytest.raises(UserError, match="no rows of split train or unlabeled, only of val"):
        build_table_index(write(flat, "path,label,split\na.png,x,val\n"), has_classes=True, part="train")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a.png,cat\n", "no column of paths (its first line: a.png, cat); name columns"),
        ("", "no column of paths"),
        ("path,label\n", "names no image"),
        ("path,label\n\n , \n", "names no image"),
        ("path,text\na.png,x\n", "no column of labels; call one"),
        ("file,image,label\na.png,b.png,x\n", "columns file and image of table"),
        ("path,class,target\na.png,b.png,x\n", "columns class and target of table"),
        ("path,label,label\na.png,b,x\n", "columns label and label of table"),
        ("path,label\na.png,cat\nb, c.png,dog\n", "line 3: 3 fields, and the first line has 2; put what"),
        ("path,label\na.png\n", "line 2: 1 fields"),
        ('path,label\na.png,"cat\nb.png,dog\n', "correct the quotes"),
        ("path,label\n,cat\n", "line 2: no path in column path"),
        ("path,label\na.png,\n", "no row of table"),
        ("path,label\na.png,x\nb.png,y\n./a.png,x\n", "line 4: image './a.png' is given twice, also in"),
        ("path,label\na.png,x\n\na.png,y\n", "line 4: image 'a.png' is given twice, also in line 2, there"),
        ("path,label\nx.png,x\n", "line 2: image {flat}/x.png does not exist (paths are relative to"),
        ("path,label\n/x.png,x\n", "line 2: image /x.png does not exist; correct"),
        ("path,label\nhttp://x/a.png,x\n", "does not exist"),
        ("path,label\n.,x\n", "line 2: '.' is the folder {flat}; name an image"),
        ("path,label\na.png,3\nb.png,-1\n", "line 3: label -1 may be a class or none"),
        ("path,label,split\na.png,3,\n", "line 2: split '' is unknown"),
        ("path,label\na\0.png,x\n", "is no table of text"),
        ("path,label\na.png," + "x" * 200_000 + "\n", "line 2: field larger than"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(flat, text, error):
    with pytest.raises(UserError) as raised:
        build_table_index(write(flat, text), has_classes=True, part="train")
    message = str(raised.value)
    assert error.format(flat=flat) in message and "\n" not in message and len(message) < 600


@pytest.mark.parametrize(
    ("name", "data", "error"),
    [
        ("t.csv", "path,label\na.png,Bär\n".encode("latin-1"), "line 2: no UTF-8; save the table as CSV"),
        ("t.csv", "path,label\na.png,x\n".encode("utf-16"), "line 1: no UTF-8"),
        ("t.jsonl", b'{"path": "a.png", "label": "x"}\n[1]\n', "line 2: no JSON object"),
        ("t.jsonl", b'{"path": "a.png", "label": "x"}\n{"path"\n', "line 2: no JSON ("),
        ("t.jsonl", b'{"path": "a.png", "label": ["x"]}\n', "line 1, label: list, no text and no number"),
        ("t.parquet", b"PAR1", "cannot read table"),
    ],
)
def test_what_is_no_table(flat, name, data, error):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow.parquet")
    (flat / name).write_bytes(data)
    with pytest.raises(UserError) as raised:
        build_table_index(flat / name, has_classes=True)
    assert error in str(raised.value) and "\n" not in str(raised.value)


def test_missing_images_of_a_folder_say_where_was_looked(flat, tmp_path):
    (flat / "deep").mkdir()
    for text, error in (
        ("x.png", f"'x.png' is no image below {flat}, nor relative to {tmp_path}; correct"),
        ("deep", f"'deep' is the folder {flat}/deep; name an image"),
    ):
        file = write(tmp_path, f"path,label\n{text},x\n")
        with pytest.raises(UserError, match="line 2: ") as raised:
            build_table_index(file, has_classes=True, tree=flat)
        assert error in str(raised.value)


def test_images_to_evaluate_on_need_labels(flat):
    with pytest.raises(UserError, match="line 3: no label, and images to evaluate on need one"):
        build_table_index(write(flat, "path,label\na.png,x\nb.png,\n"), has_classes=True, part="val")


def test_what_may_be_no_class_is_told(flat, caplog):
    build_table_index(write(flat, "path,label\na.png,Cat\nb.png,cat\nc.png,nan\n"), has_classes=True)
    assert "label 'nan' counts as a class" in caplog.text
    assert "labels 'Cat' and 'cat' count as different classes" in caplog.text


def test_which_columns_are_taken(flat):
    columns = read_columns(write(flat, "image,path,category,split\nx,y,z,train\n"))
    assert str(columns) == "paths from column path, labels from category, parts from split"
    assert read_table(flat / "labels.csv").rows == [(2, "y", "z", "train")]
    assert not has_columns(write(flat, ",Index,file,label\n0,1,x,y\n")), "the authors' positions"
    assert not has_columns(write(flat, "path,label\n", "t.txt")) and not has_columns(flat)


def test_class_folders_as_a_table_are_the_same_index(tmp_path):
    """Names that sort differently with and without their folders among them."""
    for name in ("a/1.png", "a/x/0.png", "a/x y/0.png", "a b/2.png", "a b/10.png", "B/0.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / "d" / name)
    folders = build_index(tmp_path / "d", has_classes=True)
    names = [folders.relative_path(i) for i in range(len(folders))]
    rows = "".join(f"{name},{name.split('/')[0]}\n" for name in reversed(names))
    table = write(tmp_path / "d", "path,label\n" + rows)
    for index in (
        build_table_index(table, has_classes=True),
        build_table_index(table, has_classes=True, tree=tmp_path / "d"),
    ):
        assert (index.root, index.classes) == (folders.root, folders.classes)
        for name in ("path_blob", "path_offsets", "labels", "sizes", "orientation", "broken"):
            np.testing.assert_array_equal(getattr(index, name), getattr(folders, name))
