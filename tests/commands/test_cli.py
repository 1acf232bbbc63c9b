"""Wrong inputs: one line on stderr that says what, where and the cure, and exit code 2."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys

import pytest
from PIL import Image

from fastsemi.commands import cli
from fastsemi.commands.cli import main


@pytest.fixture
def preset(tiny, tmp_path):
    """The tiny preset's file."""
    return tmp_path / "tiny.yaml"


def _fails(capsys, *arguments):
    assert main(list(arguments)) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastsemi: error: ") and error.count("\n") == 1
    return error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data.root", "/nowhere"], ["/nowhere/train", "not exist"]),
        (["--data.labels.fraction", "0", "--data.labels.per_class", "null"], ["data.labels.fraction", "0"]),
        (
            ["--data.labels.fraction", "1.2", "--data.labels.per_class", "null"],
            ["data.labels.fraction", "1.2"],
        ),
        (["--data.labels.per_class", "41"], ["all 120 images", "no unlabelled one is left"]),
        (["--model.name", "vit_tinny_patch16_224"], ["vit_tinny_patch16_224", "vit_tiny_patch16_224"]),
        (["--semi.treshold", "0.5"], ["semi.treshold", "semi.threshold"]),
        (["--data.image_size", "18"], ["data.image_size 18", "4 pixels", "16 or 20"]),
        (["--finetune.batch", "13"], ["labelled batch of 13", "12 images"]),
        (["--semi.unlabelled_ratio", "30"], ["unlabelled batch of 180", "108 images"]),
        (["--device", "cuda:7"], ["cuda:7"]),
        (["--precision", "fp16", "--device", "cpu"], ["fp16", "bf16"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
        (["--model.args.depht", "3"], ["depht", "model.args"]),
        (["--output", "/proc/x"], ["/proc/x", "--output"]),
        (
            ["--loader.max_memory", "1e-6"],
            [" of 16 x 16 pixels needs about", "loader.max_memory", "data.max_bad"],
        ),
        (["--loader.prefetch", "0"], ["loader.prefetch is 0", "at least 1"]),
        (["--loader.threads", "-1"], ["loader.threads is -1"]),
        (["--data.std", "[0, 1, 1]"], ["data.std", "positive"]),
        (["--finetune.length", "0 epochs"], ["finetune.length is 0 epochs"]),
        (["--finetune.weight_decay", "-1"], ["finetune.weight_decay is -1"]),
        (["--finetune.betas", "[1.5, 2]"], ["finetune.betas"]),
        (["--finetune.min_lr", ".nan"], ["finetune.min_lr"]),
        (["--seed", "-1"], ["seed is -1"]),
        (["--config"], ["--config", "expected one argument"]),
    ],
)
def test_wrong_options(options, words, preset, capsys):
    error = _fails(capsys, "train", "--config", str(preset), "--stages", "[finetune, semi]", *options)
    for word in words:
        assert word in error


def test_a_class_folder_without_images(preset, shapes, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(shapes, root)
    (root / "train" / "empty").mkdir()
    error = _fails(capsys, "train", "--config", str(preset), "--data.root", str(root))
    assert f"{root / 'train' / 'empty'}" in error and "no images" in error


def test_a_label_index_beyond_the_data(preset, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    labels.write_text("Index\n0\n41\n999\n")
    options = ["--data.labels.per_class", "null", "--data.labels.file", str(labels)]
    error = _fails(capsys, "train", "--config", str(preset), "--stages", "[finetune]", *options)
    assert "999" in error and "120" in error and str(labels) in error


def test_a_broken_image_names_its_path(preset, shapes, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(shapes, root)
    (root / "val" / "dot" / "004.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    options = ["--data.root", str(root), "--stages", "[finetune]"]
    error = _fails(capsys, "train", "--config", str(preset), *options)
    assert "dot/004.png" in error and "data.max_bad" in error


def test_other_classes_in_the_evaluation_set(preset, shapes, tmp_path, capsys):
    root = tmp_path / "set"
    shutil.copytree(shapes, root)
    (root / "val" / "extra").mkdir()
    Image.new("RGB", (8, 8)).save(root / "val" / "extra" / "0.png")
    options = ["--data.root", str(root), "--stages", "[finetune]"]
    assert "extra" in _fails(capsys, "train", "--config", str(preset), *options)


def test_commands_without_a_model_say_what_to_run(preset, shapes, capsys):
    for command in (["evaluate"], ["predict", str(shapes / "val")]):
        assert "fastsemi train" in _fails(capsys, *command, "--config", str(preset))


def test_unknown_commands_name_the_nearest(capsys):
    assert "did you mean train?" in _fails(capsys, "trian")


def test_an_existing_data_folder_is_kept(tmp_path, capsys):
    (tmp_path / "mine").write_text("precious")
    assert str(tmp_path) in _fails(capsys, "data", "digits", str(tmp_path))
    assert (tmp_path / "mine").read_text() == "precious"


def test_print_config_needs_no_data(preset, capsys):
    assert main(["train", "--config", str(preset), "--print_config", "--semi.threshold", "0.9"]) == 0
    assert "threshold: 0.9" in capsys.readouterr().out


def test_the_package_leaves_no_bare_rooms_in_sys_modules():
    """`loaders` and `kernels` are other people's names; ours are fastsemi.loaders and fastsemi.kernels."""
    import fastsemi.run.run  # noqa: F401

    assert not {"loaders", "kernels"} & set(sys.modules)


def test_an_evaluation_with_other_classes_or_another_size_is_refused(tiny, shapes, tmp_path, capsys):
    from rich.console import Console

    from fastsemi.common.progress import Progress
    from fastsemi.run.run import Run

    config = tiny("--stages", "[finetune]")
    Run(config, Progress(Console(quiet=True))).train(["finetune"])
    other = tmp_path / "other"
    shutil.copytree(shapes, other)
    for split in ("train", "val"):
        shutil.rmtree(other / split / "dot")
    output = ["--output", str(config.output)]
    assert "other classes" in _fails(capsys, "evaluate", *output, "--data.root", str(other))
    assert "takes 16" in _fails(capsys, "evaluate", *output, "--data.image_size", "32")
    (config.output / "model" / "model.safetensors").write_bytes(b"damaged")
    assert "damaged" in _fails(capsys, "evaluate", *output)


def test_a_vanished_reader_does_not_end_the_training(preset, tmp_path, fork):
    words = ["train", "--config", str(preset), "--stages", "[finetune]"]
    (reader, writer), error = socket.socketpair(), tmp_path / "error"
    with reader, error.open("w") as err:
        process = fork([sys.executable, "-m", "fastsemi.commands.cli", *words], stdout=writer, stderr=err)
        writer.close()
        assert reader.recv(1)
        reader.shutdown(socket.SHUT_RDWR)  # closing does not do, the fork has it too
    assert process.wait(timeout=120) == 0, error.read_text()
    assert (tmp_path / "run" / "model" / "config.json").exists()


@pytest.mark.parametrize(
    ("words", "unbuffered"), [(["--version"], "1"), (["--version"], ""), (["init", "--help"], "")]
)
def test_a_vanished_reader_ends_a_command_quietly(words, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "fastsemi", *words]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, timeout=120)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


def test_another_broken_pipe_is_a_failure(monkeypatch, capsys):
    def fail(*_):
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert "Broken pipe" in _fails(capsys, "doctor")


MISSING = [
    ["train", "--data.root", "/nowhere"],
    ["train", "--data.labels.file", "/nowhere.txt", "--data.labels.per_class", "null"],
    ["train", "--model.weights", "/nowhere.pt"],
    ["probe", "--data.unlabeled", "/nowhere"],
    ["views", "--data.val", "nowhere"],
    ["evaluate"],
    ["predict", "pictures"],
    ["export"],
    ["report", "--output", "/nowhere"],
    ["train", "--semi.treshold", "0.5"],
    ["suggest", "--images", "/nowhere"],
]
# One process, since most of a second goes by before each would say anything.
REFUSED = """
import contextlib, io, json, sys
from fastsemi.commands.cli import main
for words in json.loads(sys.argv[1]):
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(words)
    heavy = sorted({"torch", "timm"} & set(sys.modules))
    print(json.dumps([code, said.getvalue(), heavy]))
"""


@pytest.fixture(scope="module")
def refused(make_tiny, tmp_path_factory):
    """The exit code, what was said, and whether PyTorch or timm had been imported, for each of MISSING."""
    folder = tmp_path_factory.mktemp("missing")
    make_tiny(folder)
    commands = []
    for command, *options in MISSING:
        images = options[:1] * (command == "predict")
        rest = options[command == "predict" :]
        commands.append([command, *images, "--config", str(folder / "tiny.yaml"), *rest])
    words = [sys.executable, "-c", REFUSED, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return dict(zip(map(tuple, MISSING), map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("words", MISSING)
def test_what_is_missing_is_refused_without_pytorch(words, refused):
    """Importing PyTorch and timm takes seconds, in which a wrong path is found out at once."""
    code, said, heavy = refused[tuple(words)]
    assert code == 2 and said.count("\n") == 1 and not heavy, said


@pytest.mark.parametrize(("end", "code"), [(2, 2), (0, 0), (None, 0), ("a reason", 1)])
def test_no_way_out_waits_for_threads_that_hang(end, code, monkeypatch):
    def stop():
        raise SystemExit(end)

    monkeypatch.setattr(cli, "main", stop)
    monkeypatch.setattr(cli, "leave", (left := []).append)
    cli.script()
    assert left == [code]
