"""A configuration for a folder of pictures: what is found there, what it becomes, what is refused."""

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from rich.console import Console

from fastsemi.commands.cli import main
from fastsemi.common.errors import UserError
from fastsemi.common.progress import Progress
from fastsemi.loaders.data import Data
from fastsemi.loaders.settings import DataConfig, LabelsConfig, LoaderConfig
from fastsemi.loaders.sources.open import open_source
from fastsemi.loaders.write_beton import Encoding, write_beton
from fastsemi.run import config as configuration
from fastsemi.run.checks import check_stage
from fastsemi.run.context import RunContext
from fastsemi.run.run import Run
from fastsemi.tools.init import fit
from fastsemi.tools.init.draft import Draft
from fastsemi.tools.init.fit import RECIPES, choose_recipe, hold_out_fraction, recipe_names, say_held_out
from fastsemi.tools.init.layout import Layout
from fastsemi.tools.init.measure import measure_colours
from fastsemi.tools.init.survey import Survey

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def paint(folder, counts, size=(90, 70), mode="RGB"):
    """Class folders with so many pictures each, which mode L makes grey."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (size[1], size[0], 3)).astype(np.uint8)
            Image.fromarray(pixels).convert(mode).save(folder / name / f"{i:03}.png")


def made(capsys, *words):
    """The configuration that `fastsemi init` writes and what it says; every stage has images for it."""
    assert main(["init", *words]) == 0
    captured = capsys.readouterr()
    assert not captured.err
    said = captured.out.splitlines()
    file = Path(said[-1].split(" is written; next: fastsemi train --config ")[0])
    config = configuration.load([file], [])
    model = dataclasses.replace(config.model, pretrained=False, adapt="full")  # weights would be downloaded
    run = RunContext(dataclasses.replace(config, model=model))
    for stage in config.stages:
        check_stage(run, stage)
    run.close()
    return config, "\n".join(said)


def refused(capsys, *words):
    assert main(["init", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastsemi: error: ") and error.count("\n") == 1
    return error


def test_small_pictures_are_trained_from_scratch_on_their_own_greys(grey_shapes, capsys):
    Path("photos").symlink_to(grey_shapes)
    config, said = made(capsys, "photos", "--per_class", "4")
    assert Path("photos.yaml").is_file() and config.output == Path("runs/photos")
    assert "120 images of 3 classes, 40 (bar) to 40 (bar) each" in said
    assert "labelled: 12 images; unlabelled: 108" in said and "30 images in photos/val" in said
    assert "recipe: from_scratch_small" in said and "no side longer than 16 pixels" in said
    assert config.stages == ("finetune", "semi") and config.data.image_size == 32
    assert config.data.labels == LabelsConfig(per_class=4) and config.semi.align == "uniform"
    pixels = np.concatenate(
        [np.asarray(Image.open(path)).flatten() for path in (grey_shapes / "train").rglob("*.png")]
    )
    np.testing.assert_allclose(config.data.mean, [pixels.mean() / 255] * 3, atol=0.01)
    np.testing.assert_allclose(config.data.std, [pixels.std() / 255] * 3, rtol=0.15)  # resizing smooths
    recipe = configuration.load([ROOT / "configs/practical/from_scratch_small.yaml"], [])
    assert (config.model, config.semi.length, config.finetune.base_lr) == (
        *(recipe.model, recipe.semi.length, recipe.finetune.base_lr),
    )


def test_batches_and_alignment_fit_few_images_of_classes_of_different_size(capsys):
    paint(Path("few/train"), {"a": 12, "b": 4}, size=(20, 20), mode="L")
    config, said = made(capsys, "few", "--per_class", "3")
    assert "by a factor of 3.0" in said and config.semi.align == "none"
    assert "held out (data.labels.validation), training nothing: 2 of 6 labels" in said.splitlines()
    comment = " ".join(line.strip().lstrip("# ") for line in Path("few.yaml").read_text().splitlines())
    assert "There is no evaluation set. The part `validation` of each class" in comment
    assert "trains nothing: 2 of 6 labels. All accuracies are of these" in comment
    # 6 labels, of which 2 are held out, as there is no evaluation set; the 10 others have no label
    assert config.data.val is None and config.data.labels == LabelsConfig(per_class=3, validation=0.2)
    assert (config.finetune.batch, config.semi.batch, config.semi.unlabelled_ratio) == (4, 4, 2)
    assert config.finetune.spread_ratio == 0
    assert config.finetune.augment.flip == config.semi.strong.flip == 0.0, "a and b are letters"


@pytest.mark.parametrize("root", ["photos", "photos/train"])
def test_evaluation_and_unlabelled_folders_are_found_by_their_names(root, shapes, capsys):
    shutil.copytree(shapes / "train", "photos/train")
    shutil.copytree(shapes / "val", "photos/valid")
    shutil.copytree(shapes / "val", "photos/test")
    shutil.copytree(shapes / "val", "photos/unlabelled")
    config, said = made(capsys, root)
    assert (config.data.root, config.data.train, config.data.val) == (Path("photos"), "train", "valid")
    assert config.data.unlabeled == Path("photos/unlabelled") and "test not used" in said
    assert config.data.labels == LabelsConfig(fraction=1.0, validation=0.2), "40 of each class are enough"
    assert "unlabelled: 30 in photos/unlabelled" in said
    assert config.semi.align == "none", "nobody knows how frequent the classes are there"


@pytest.mark.parametrize(
    ("labelled", "fraction", "said"),
    [
        ([8] * 8, 0.2, "16 of 64 labels"),
        ([1] * 6 + [100] * 5, 0.2, "100 of 506 labels, of these classes none: 0, 1, 2, 3, 4 and 1 more"),
        ([3, 2], 0.2, "1 of 5 labels, of these classes none: 1"),
        ([2, 2, 1], 0.5, "2 of 5 labels, of these classes none: 2"),
        ([2, 0], 0.5, "1 of 2 labels, of these classes none: 1"),
    ],
)
def test_half_of_the_labels_is_held_out_only_where_a_fifth_is_nothing(labelled, fraction, said):
    counts = np.array(labelled)
    layout = Layout(Path("photos"), ".", None, None)
    classes = tuple(str(i) for i in range(len(labelled)))
    survey = Survey(layout, classes, counts, counts, 0, 0, counts, (), (), 0, True)
    assert hold_out_fraction(survey) == fraction and say_held_out(survey, fraction) == said
    assert hold_out_fraction(dataclasses.replace(survey, layout=Layout(layout.root, ".", "val", None))) == 0


def test_images_of_class_folders_that_nothing_uses_are_told(capsys):
    paint(Path("photos/train"), {"cat": 5, "dog": 8}, size=(20, 20))
    paint(Path("photos/unlabeled"), {"x": 9}, size=(20, 20))
    config, said = made(capsys, "photos", "--per_class", "3")
    assert "labelled: 6 images; unlabelled: 9 in photos/unlabeled" in said
    cure = "add copies of them to photos/unlabeled to train on them too"
    assert f"not used: 7 images of photos/train that do not count as labelled; {cure}" in said
    assert "Not used: the 7 training images that have no label" in Path("photos.yaml").read_text()
    assert config.data.unlabeled == Path("photos/unlabeled")
    assert "not used" not in made(capsys, "photos", "--force")[1].lower()


def test_class_folders_alone_are_fine_tuned_on_and_judged_by_a_part_of_themselves(capsys):
    paint(Path("photos"), {"cat": 5, "dog": 7})
    paint(Path("unlabeled"), {"of something else": 3})
    config, said = made(capsys, "photos", "--recipe", "pretrained_cnn")
    assert (config.data.train, config.data.val, config.stages) == (".", None, ("finetune",))
    assert config.data.unlabeled is None
    assert "there is no semi stage" in said and "a part of the labelled images is held out" in said
    assert "without unlabelled images" in said
    assert config.data.labels == LabelsConfig(fraction=1.0, validation=0.2)
    assert config.finetune.head == "probe" and config.finetune.batch == 10
    assert str(config.finetune.length) == "60 steps", "those of the recipe, more than 5 passes over 10 labels"
    assert (config.data.mean, config.data.image_size) == ((0.5, 0.5, 0.5), 128)
    text = Path("photos.yaml").read_text()
    assert "# There are no unlabelled images" in text and "semi:" not in text


@pytest.mark.parametrize(("further", "recipe"), [(999, "pretrained_cnn"), (1_000, "pretrained_cnn_many")])
def test_the_whole_network_is_trained_where_there_are_many_unlabelled_pictures(further, recipe):
    counts = np.array([10, 10])
    layout = Layout(Path("photos"), "train", "val", Path("more"))
    survey = Survey(layout, ("a", "b"), counts, counts, further, 9, np.full(20, 99), (), (), 0, True)
    chosen, why = choose_recipe(survey, cuda=False, coloured=False)
    assert chosen == recipe and why.startswith("1,000 unlabelled ") == (further == 1_000)
    assert choose_recipe(survey, cuda=True, coloured=False)[0] == "pretrained_vit_small"
    small = dataclasses.replace(survey, sides=np.full(20, 9))
    for cuda in (False, True):
        assert choose_recipe(small, cuda=cuda, coloured=False)[0] == "from_scratch_small"
        assert choose_recipe(small, cuda=cuda, coloured=True)[0] == recipe


def test_small_coloured_pictures_start_from_published_weights(capsys):
    for folder, mode in (("coloured", "RGB"), ("grey", "L")):
        paint(Path(folder) / "train", {"a": 9, "b": 9}, size=(20, 20), mode=mode)
    config, said = made(capsys, "coloured", "--per_class", "4")
    assert "recipe: pretrained_cnn (coloured pictures)" in said
    assert config.data.image_size == 128 and config.model.pretrained is True
    advice = "coloured pictures gain from published weights, as of pretrained_cnn"
    config, said = made(capsys, "coloured", "--per_class", "4", "--recipe", "from_scratch_small", "--force")
    assert advice in said and config.model.pretrained is False
    for words in ((), ("--recipe", "from_scratch_small", "--force")):
        config, said = made(capsys, "grey", "--per_class", "4", *words)
        assert "recipe: from_scratch_small" in said and advice not in said


def test_many_pictures_are_trained_on_for_longer(capsys, monkeypatch):
    many = ("--per_class", "4", "--recipe", "pretrained_cnn_many", "--force")
    paint(Path("small/train"), {"a": 9, "b": 9}, size=(20, 20))
    config, _ = made(capsys, "small", *many)
    assert (config.data.image_size, config.semi.length) == (128, "300 steps")
    monkeypatch.setattr(fit, "LONG", (10, "600 steps"))
    config, _ = made(capsys, "small", *many)
    assert config.semi.length == "600 steps"


def test_larger_pictures_start_from_published_weights(capsys, monkeypatch):
    paint(Path("photos/train"), {"cat": 2, "dog": 2}, size=(300, 100))
    paint(Path("unlabeled pictures"), {"x": 9})
    words = ("photos", "--unlabeled", "unlabeled pictures", "--output", "my own.yaml")
    config, said = made(capsys, *words)
    assert "recipe: pretrained_cnn (pictures larger than 64 pixels, and no CUDA GPU)" in said
    assert said.endswith("fastsemi train --config 'my own.yaml'")
    assert config.model.pretrained is True and config.data.image_size == 96 + 32
    assert (config.semi.batch, config.semi.unlabelled_ratio) == (2, 3)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert main(["init", *words, "--force"]) == 0
    assert yaml.safe_load(Path("my own.yaml").read_text())["model"]["name"] == "vit_small_patch14_dinov2"


def test_many_labels_alone_are_trained_on_for_some_passes(grey_shapes, capsys):
    config, _ = made(capsys, str(grey_shapes), "--output", "x.yaml")
    # 8 of 40 of each class are held out: 96 train, 5 batches of 20 to a pass
    assert config.stages == ("finetune",) and str(config.finetune.length) == "300 steps"
    shutil.copytree(grey_shapes / "train", "many/train/a/1")
    paint(Path("many/train"), {"b": 60}, size=(16, 16), mode="L")
    for i in range(8):
        shutil.copytree(grey_shapes / "train", f"many/train/b/{i}")
    config, _ = made(capsys, "many")
    # 120 and 1,020 images, of which 24 and 204 are held out: 912 train, 46 batches to a pass
    assert (str(config.finetune.length), str(config.finetune.eval_every)) == ("1380 steps", "138 steps")


def test_a_list_of_labels_is_taken(grey_shapes, capsys):
    Path("list.txt").write_text("".join(f"{c}/{i:03}.png\n" for c in ("bar", "dot") for i in range(3)))
    config, said = made(capsys, str(grey_shapes), "--labels", "list.txt", "--output", "x.yaml")
    assert config.data.labels == LabelsConfig(file=Path("list.txt")) and "labelled: 6 images" in said
    assert (config.finetune.batch, config.semi.batch) == (6, 6)


def flat(root, counts, labelled, table="labels.csv"):
    """Pictures of all classes in one folder, and a table that names some of each."""
    paint(root, {".": sum(counts.values())}, size=(20, 20), mode="L")
    files = iter(sorted(root.glob("*.png")))
    rows = [(next(files).name, name) for name, count in counts.items() for _ in range(count)]
    some = [row for c in counts for row in [r for r in rows if r[1] == c][:labelled]]
    (root / table).write_text("file,category\n" + "".join(f"{file},{label}\n" for file, label in some))


def test_one_folder_and_a_table_of_some_labels(capsys):
    flat(Path("photos"), {"cat": 9, "dog": 11}, 3)
    config, said = made(capsys, "photos")
    assert said.splitlines()[:4] == [
        "labels: found in photos/labels.csv",
        "photos/labels.csv: paths from column file, labels from category",
        "photos: 6 images of 2 classes, 3 (cat) to 3 (cat) each, and 14 without",
        "labelled: 6 images; unlabelled: 14",
    ]
    assert (config.data.train, config.data.val, config.stages) == (".", None, ("finetune", "semi"))
    assert config.data.labels == LabelsConfig(file=Path("photos/labels.csv"), validation=0.2)
    assert config.semi.align == "none" and config.semi.batch == 4, "2 of 6 labels are held out"
    shutil.move("photos/labels.csv", "elsewhere.csv")
    paint(Path("photos/val"), {"cat": 2, "dog": 2}, size=(20, 20))
    config, said = made(capsys, "photos", "--labels", "elsewhere.csv", "--force")
    assert config.data.labels.file == Path("elsewhere.csv") and config.data.val == "val"
    assert "labelled: 6 images; unlabelled: 14" in said, "those to evaluate on are no further ones"
    data = Data(config.data, LoaderConfig())
    assert len(data.unlabelled.ids) == 14 and len(data.pretraining.ids) == 20
    Path("elsewhere.csv").write_text("path,label\n000.png,cat\n001.png,dog\nval/cat/000.png,cat\n")
    with pytest.raises(UserError, match=r"1 images have a label .* the first: .*/val/cat/000.png; take"):
        _ = Data(config.data, LoaderConfig()).labelled


def test_per_class_counts_among_the_images_of_the_table(capsys):
    flat(Path("photos"), {"cat": 9, "dog": 11}, 5)
    config, said = made(capsys, "photos", "--per_class", "2")
    assert config.data.train == "labels.csv" and config.data.labels.per_class == 2
    assert "labelled: 4 images; unlabelled: 6" in said


def test_parts_of_a_table_and_tables_in_the_folders_of_hugging_face(capsys):
    flat(Path("photos"), {"cat": 6, "dog": 6}, 6)
    lines = Path("photos/labels.csv").read_text().splitlines()
    splits = ["split"] + ["train", "train", "unlabeled", "train", "train", "test"] * 2
    rows = [f"{line},{split}" for line, split in zip(lines, splits, strict=True)]
    Path("photos/labels.csv").write_text("\n".join(rows))
    config, said = made(capsys, "photos")
    assert (config.data.train, config.data.val) == (".", "labels.csv")
    assert "labelled: 8 images; unlabelled: 2" in said and "2 images in photos/labels.csv" in said
    for part in ("train", "validation"):
        flat(Path("hub") / part, {"cat": 3, "dog": 3}, 3 if part == "validation" else 2, "metadata.csv")
    config, said = made(capsys, "hub")
    assert (config.data.train, config.data.val) == ("train", "validation/metadata.csv")
    assert config.data.labels == LabelsConfig(file=Path("hub/train/metadata.csv"))
    assert "labelled: 4 images; unlabelled: 2" in said


def test_a_table_beside_class_folders_is_told_or_refused(capsys):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    paint(Path("photos"), {"cat": 5, "dog": 5}, size=(20, 20))
    Path("photos/classes.csv").write_text("path,class,confidence\ncat/000.png,dog,0.3\n")
    _, said = made(capsys, "photos")
    assert "not used: photos/classes.csv, as the folders have the names of classes; --labels" in said
    assert "10 images of 2 classes" in said
    Path("photos/classes.csv").write_text("path,class\ncat/000.png,cow\ncat/001.png,ox\n")
    assert "labels such as 'cow' that name none of them; take the labels with --labels" in refused(
        capsys, "photos", "--force"
    )
    flat(Path("two"), {"cat": 2, "dog": 2}, 2, "a.csv")
    shutil.copy("two/a.csv", "two/b.csv")
    assert "two/a.csv and two/b.csv may each say which" in refused(capsys, "two")
    Path("two/b.csv").unlink()
    names = [f"00{i}.png" for i in range(4)]
    pq.write_table(pa.table({"path": names, "label": ["cat", "cat", "dog", "dog"]}), "two/a.parquet")
    Path("two/a.csv").unlink()
    assert "labels: found in two/a.parquet" in made(capsys, "two")[1]
    pictures = pa.array([{"bytes": Path("two/000.png").read_bytes(), "path": "x"}] * 4)
    Path("hub").mkdir()
    pq.write_table(pa.table({"image": pictures, "label": [0, 1, 0, 1]}), "hub/a.parquet")
    Path("hub/labels.csv").write_text("path,label\nx,cow\n")
    assert "4 images of 2 classes" in made(capsys, "hub")[1], "what lies beside archives is theirs"
    paint(Path("odd"), {".": 2})
    Path("odd/train.csv").write_text("id,breed\n000,cat\n")
    assert "odd/train.csv has no column of paths (its first line: id, breed)" in refused(capsys, "odd")
    assert "no such file; correct --labels" in refused(capsys, "odd", "--labels", "nowhere.csv")


def test_a_written_configuration_trains():
    paint(Path("few/train"), {"a": 9, "b": 9}, size=(20, 20), mode="L")
    assert main(["init", "few", "--per_class", "3"]) == 0
    options = [word for stage in ("finetune", "semi") for word in (f"--{stage}.length", "1 steps")]
    options += ["--finetune.warmup", "0 steps", "--semi.warmup", "0 steps", "--train.baseline", "none"]
    config = configuration.load([Path("few.yaml")], options)
    summary = Run(config, Progress(Console(quiet=True))).train(config.stages)
    assert summary["stages"].keys() == {"finetune", "semi"} and summary["held_out"] == 2
    assert Path("runs/few/model/model.safetensors").is_file()


def test_images_beside_the_class_folders_are_counted(capsys):
    paint(Path("photos/train"), {"cat": 5, "dog": 5}, size=(30, 30))
    paint(Path("photos"), {".": 2}, size=(30, 30))
    Path("photos/notes.txt").write_text("no image")
    paint(Path("photos/train"), {".": 1}, size=(30, 30))
    assert main(["init", "photos"]) == 0
    said = capsys.readouterr().out
    assert "photos: not used: 2 images beside the folder train; move them into class folders" in said
    assert "skipped 1 image outside class folders" in said


def test_broken_images_are_told(capsys):
    paint(Path("photos/train"), {"cat": 5, "dog": 5}, size=(30, 30))
    paint(Path("photos/val"), {"cat": 2, "dog": 2}, size=(30, 30))
    Path("photos/train/dog/002.png").write_bytes(b"no image")
    assert main(["init", "photos"]) == 0
    said = capsys.readouterr().out
    assert (
        "images that cannot be read: 1, the first: " in said
        and "dog/002.png" in said
        and "max_bad to 1" in said
    )


def test_photographs_of_telephones_are_told_and_turned(capsys):
    paint(Path("photos/train"), {"cat": 5, "dog": 5}, size=(30, 20))
    paint(Path("photos/val"), {"cat": 1, "dog": 1}, size=(30, 20))
    config, said = made(capsys, "photos")
    assert config.data.exif == "ignore" and "skipped" not in said and "EXIF" not in said
    for i in range(40):
        Path(f"photos/train/dog/{i}.HEIC").touch()
    Path("photos/val/notes.txt").touch()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    for name in ("train/cat/x.jpg", "train/cat/y.jpg", "val/dog/x.jpg"):
        Image.new("RGB", (30, 20)).save(Path("photos") / name, exif=exif)
    config, said = made(capsys, "photos", "--force")
    here = Path("photos").absolute()
    assert (
        f"{here}/train: skipped 40 files that are no images: 40 .heic; pip install pillow-heif reads" in said
    )
    assert f"{here}/val: skipped 1 file that is no image: 1 .txt\n" in said
    assert "on their side or mirrored, as EXIF says: 3; data.exif apply turns them" in said
    assert config.data.exif == "apply"
    assert "  # Images that lie on their side or mirrored: 3." in Path("photos.yaml").read_text()


def test_a_beton_cannot_be_turned(shapes, tmp_path, capsys):
    source = open_source(shapes, "val", has_classes=True, max_pixels=10**6)
    write_beton(tmp_path / "u.beton", source, source.index, encoding=Encoding("raw"), max_pixels=10**6)
    shutil.copytree(shapes / "train", "photos/train")
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.new("RGB", (16, 16)).save("photos/train/bar/x.png", exif=exif)
    config, said = made(capsys, "photos", "--unlabeled", "u.beton")
    assert config.data.exif == "ignore" and "as EXIF says: 1; they stay so: a .beton cannot" in said


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["nowhere"], "nowhere does not exist"),
        ([], "folder"),
        (["flat"], "no class folders"),
        (["one"], "one class cat"),
        (["heic"], "1 .heic; pip install pillow-heif reads .heic and .heif; add some or remove the folder"),
        (["mixed"], "mixed/val lies among the class folders"),
        (["inner"], "inner/train/unlabeled lies among the class folders"),
        (["single"], "no class has a second label to evaluate on"),
        (["good", "--per_class", "0"], "at least 1"),
        (["good", "--per_class", "1", "--labels", "x"], "give one of them"),
        (["good", "--labels", "x"], "cannot read label index file x"),
        (["good", "--unlabeled", "x"], "does not exist"),
        (["good", "--recipe", "x"], "from_scratch_small, pretrained_cnn"),
        (["good", "--output", "there.yaml"], "there.yaml is there already; give --force"),
        (["good", "--output", "flat", "--force"], "flat is there and no file; name the configuration"),
        (["good", "--output", "no/x.yaml"], "the folder no does not exist"),
        (["good", "--per_clas", "2"], "--per_clas"),
        (["other"], "has classes that"),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(words, error, capsys):
    paint(Path("flat"), {".": 2})
    paint(Path("one"), {"cat": 2})
    paint(Path("heic"), {"cat": 2, "dog": 0})
    Path("heic/dog/1.heic").touch()
    paint(Path("mixed"), {"cat": 2, "dog": 1, "val": 1})
    paint(Path("inner/train"), {"cat": 2, "dog": 1, "unlabeled": 1})
    paint(Path("single"), {"cat": 1, "dog": 1})
    paint(Path("good/train"), {"cat": 5, "dog": 7})
    paint(Path("other/train"), {"cat": 2, "dog": 2})
    paint(Path("other/val"), {"cat": 2, "cow": 2})
    Path("there.yaml").write_text("precious")
    assert error in refused(capsys, *words)
    assert [str(path) for path in Path().glob("*.yaml")] == ["there.yaml"]
    assert Path("there.yaml").read_text() == "precious"


def test_what_is_wrong_is_found_without_pytorch():
    paint(Path("single"), {"cat": 1, "dog": 1})
    code = (
        "import sys; from fastsemi.commands.cli import main; code = main(['init', 'single']);"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules, 'imported'; sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr


def test_recipes_stand_once_and_come_with_the_package():
    assert RECIPES.resolve() == ROOT / "configs" / "practical"
    assert set(recipe_names()) >= {
        "from_scratch_small",
        "pretrained_cnn",
        "pretrained_cnn_many",
        "pretrained_vit_small",
    }
    assert 'fastsemi.tools.init" = ["recipes/*.yaml"]' in (ROOT / "pyproject.toml").read_text()
    assert os.readlink(RECIPES) == "../../../configs/practical"


def test_text_of_a_draft_is_read_back_and_says_why():
    draft = Draft({"semi": {"weak": {"area": [0.5, 1.0]}}, "data": {"val": "x"}}, ["What", ""])
    draft.set("data.root", "null", "A folder of this name. " * 8)
    draft.set("data.val", None)
    draft.set("output", "runs/a b")
    text = draft.text()
    assert text.startswith("# What\n#\noutput: runs/a b\ndata:\n")
    assert yaml.safe_load(text) == {
        "output": "runs/a b",
        "data": {"val": None, "root": "null"},
        "semi": {"weak": {"area": [0.5, 1.0]}},
    }
    assert text.count("  # ") == 2 and max(map(len, text.splitlines())) <= 104
    assert draft.get("semi.weak") == {"area": [0.5, 1.0]} and draft.get("model.name") is None


def test_colours_are_those_of_the_pixels_and_never_without_deviation(tmp_path):
    for name, colour in (("a", (255, 0, 51)), ("b", (0, 0, 51))):
        (tmp_path / "train" / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (9, 7), colour).save(tmp_path / "train" / name / f"{i}.png")
    config = DataConfig(root=tmp_path, image_size=8, max_bad=1, labels=LabelsConfig(fraction=1.0))
    found = measure_colours(config)
    assert found == ((0.5, 0.0, 0.2), (0.5, 0.004, 0.004), 1.0) and found.coloured
    (tmp_path / "train" / "a" / "1.png").write_bytes(b"broken")
    assert measure_colours(config).mean[0] == 0.4, "the stand-in of a broken image does not count"


def test_grey_pictures_that_were_saved_as_coloured_jpegs_are_grey(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "train" / "a").mkdir(parents=True)
    for i in range(4):
        grey = Image.fromarray(rng.integers(0, 256, (12, 12), np.uint8)).resize((48, 48))
        tinted = np.add(grey.convert("RGB"), [0, 1, 2], dtype=int)  # of a scanner
        Image.fromarray(tinted.clip(0, 255).astype(np.uint8)).save(tmp_path / f"train/a/{i}.jpg", quality=70)
    config = DataConfig(root=tmp_path, image_size=32, labels=LabelsConfig(fraction=1.0))
    found = measure_colours(config)
    assert len({*found.mean}) > 1 and not found.coloured


def test_a_coloured_spot_on_white_is_coloured(tmp_path):
    (tmp_path / "train" / "a").mkdir(parents=True)
    for i in range(4):
        icon = np.full((32, 32, 3), 255, np.uint8)
        icon[i : i + 4, 9:13] = (200, 30, 30)
        Image.fromarray(icon).save(tmp_path / f"train/a/{i}.png")
    config = DataConfig(root=tmp_path, image_size=32, eval_crop=1.0, labels=LabelsConfig(fraction=1.0))
    assert measure_colours(config).coloured
