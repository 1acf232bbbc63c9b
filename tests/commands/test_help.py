"""What the command line tells of itself: help in a screen, keys, completion; and when it keeps quiet."""

import io
import logging
import re
import shlex
import subprocess
import warnings

import pytest
from PIL import Image
from rich.console import Console

from fastsemi.commands import cli
from fastsemi.commands.cli import COMMANDS, main
from fastsemi.commands.help import EXAMPLES, GROUPS
from fastsemi.common.progress import Progress
from fastsemi.common.telling import be_quiet, is_quiet, tell
from fastsemi.run.config import known_keys


@pytest.fixture(autouse=True)
def loud():
    yield
    be_quiet(False)


def _help(capsys, *words):
    try:
        assert main(list(words)) == 0
    except SystemExit as end:  # of argparse
        assert end.code == 0
    return capsys.readouterr().out


def test_every_command_is_in_one_group_and_has_an_example(capsys):
    assert sorted(name for names in GROUPS.values() for name in names) == sorted(COMMANDS)
    assert sorted(EXAMPLES) == sorted([*COMMANDS, "data beton"])
    assert EXAMPLES["data beton"] in _help(capsys, "data", "beton", "--help")
    text = _help(capsys, "--help")
    assert text == _help(capsys) == _help(capsys, "help")
    assert all(
        re.search(rf"^  {name} +{re.escape(what)}$", text, re.M) for name, (_, what) in COMMANDS.items()
    )


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "help"])
def test_the_help_of_a_command_fits_a_screen_and_its_example_is_right(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    text = _help(capsys, command, "--help")
    whole = _help(capsys, "help", command)
    section = command in ("data", "train", "pretrain", "finetune", "semi")
    assert section == (command in known_keys()) == (text != whole) and whole.startswith(text)
    assert not section or f"\nkeys of the section {command}:\n  --{command}" in whole
    assert text.count("\n") <= 30 and max(map(len, text.splitlines())) < 100
    example = EXAMPLES[command]
    assert f"example: {example}\n" in text
    words = shlex.split(example.replace("<(", "").replace(")", ""))
    words = words[words.index("fastsemi") :]
    assert words[1] == command
    for option in (word for word in words if word.startswith("--")):
        assert f"  {option} " in text or ("keys, as --KEY" in text and option[2:] in known_keys())


def test_all_keys_are_listed_where_that_is_asked_for(capsys):
    text = _help(capsys, "semi", "--help-all")
    assert all(f"--{key} " in text for key in known_keys() if key not in ("train.select",))
    assert "example: fastsemi semi" in text


def test_a_key_and_a_section_are_explained(capsys):
    assert "Least confidence of a pseudo label" in _help(capsys, "help", "semi.threshold")
    assert _help(capsys, "help", "--semi.threshold") == _help(capsys, "help", "semi.threshold")
    section = _help(capsys, "help", "loader")
    assert "--loader.threads" in section and "default: 4" in section and "--semi" not in section
    assert main(["help", "semi.treshold"]) == 2
    assert "did you mean semi.threshold?" in capsys.readouterr().err


def test_a_shell_completes_commands_options_and_keys(capsys):
    script = _help(capsys, "completion", "bash")
    for words, found in (
        ("sug", ["suggest"]),
        ("train --semi.thresh", ["--semi.threshold", "--semi.threshold_rule"]),
        ("init --per", ["--per_class"]),
        ("init --semi.thresh", []),
        ("help semi.thresh", ["semi.threshold", "semi.threshold_rule"]),
        ("completion f", ["fish"]),
        ("predict pho", []),
    ):
        ask = f"COMP_WORDS=(fastsemi {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _fastsemi; "
        ask += 'printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
        assert done.stdout.split() == found
    assert script in _help(capsys, "completion", "zsh")
    fish = _help(capsys, "completion", "fish").splitlines()
    assert 'complete -c fastsemi -n "__fish_seen_subcommand_from init" -l per_class' in fish
    assert all(line.startswith("complete -c fastsemi -n ") for line in fish)


def test_quiet_leaves_results_and_warnings(capsys):
    _help(capsys, "doctor", "--quiet", "--help")
    assert not is_quiet()  # help is no work
    text = io.StringIO()
    progress = Progress(Console(file=text))
    main(["estimate", "--quiet", "--gpus", "x"])
    assert is_quiet() and logging.getLogger("fastsemi.loaders").level == logging.WARNING
    capsys.readouterr()
    tell("measuring")
    progress.start("semi", 3, 10)
    progress.update(5, {"loss": 1.0})
    progress.scores(5, {"top1": 50.0})
    assert capsys.readouterr() == ("", "") and text.getvalue() == ""
    progress.note("no step finished")
    assert text.getvalue() == "semi: no step finished\n"
    _help(capsys, "--version")
    tell("measuring")
    assert not is_quiet() and capsys.readouterr().err == "measuring\n"


def test_words_behind_help_and_version(capsys):
    assert _help(capsys, "--help", "seed") == _help(capsys, "help", "seed")
    assert main(["--version", "extra"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_command_says_a_thing_once_and_warns_each_time(capsys):
    def told(level):
        return cli._is_new(logging.LogRecord("fastsemi.loaders", level, "", 0, "of %s", ("images",), None))

    _help(capsys, "--version")
    assert [told(level) for level in (logging.INFO, logging.INFO, logging.WARNING, logging.WARNING)] == [
        *(True, False, True, True)
    ]
    _help(capsys, "--version")
    assert told(logging.INFO), "by the next command"


def test_what_libraries_warn_of_is_not_the_users(tmp_path, capsys, monkeypatch):
    (tmp_path / "set").mkdir()
    for i in range(3):
        image = Image.new("P", (9, 9), i)
        image.putpalette(range(256))
        image.save(tmp_path / "set" / f"{i}.png", transparency=bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Image.open(tmp_path / "set" / "0.png").convert("RGB")
        assert "Palette" in str(caught.pop().message)
        options = ["--images", "set", "--mode", "raw", "--without_classes"]
        assert main(["data", "beton", "set.beton", *options]) == 0
        timm = logging.getLogger("timm.models")
        assert not cli._is_ours(timm.makeRecord(timm.name, logging.WARNING, "", 0, "its own", (), None))
        mine = logging.getLogger("fastsemi.loaders.index.labels")
        assert cli._is_ours(mine.makeRecord(mine.name, logging.WARNING, "", 0, "mine", (), None))
    assert not caught and capsys.readouterr().err == ""
