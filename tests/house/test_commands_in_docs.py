"""Every command line of README.md and docs/ is read as the program reads it: options, keys and values.

Nothing runs: a command is left once its words and its configuration have been read.
"""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastsemi.commands.cli import COMMANDS, main
from fastsemi.commands.options import Parser
from fastsemi.run import config as configuration
from fastsemi.run.folder import RunFolder

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), ROOT / "docs/studies/README.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^    (fastsemi .*)$", re.MULTILINE)
CODE = re.compile(r"`([^`]+)`")
SAID = "fastsemi: error: "
# What a page leaves to fill in.
STAND_FOR = {"STEP": "0", "N": "1", "K": "1", "KEY": "semi.threshold", "SECTION": "semi", "COMMAND": "train"}
STUDY = "configs/studies/table3.yaml"


class _Read(Exception):
    """The words of a command have been read."""


@pytest.fixture(scope="module")
def loaded():
    """The configurations that were taken, of all pages: reading one costs a tenth of a second."""
    return set()


@pytest.fixture
def reads(loaded, monkeypatch, tmp_path, capsys):
    """`reads(words)`: what the program says against a command line; None where it takes it."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    plain_parse, plain_load = Parser.parse_args, configuration.load

    def parse(self, words):
        options = plain_parse(self, words)
        if self.prog != "fastsemi study":  # which has a configuration to read too
            raise _Read
        return options

    def load(files, overrides):
        for file in files:
            configuration.read_preset(file)
        asked = (*map(str, files), *overrides)
        if any(word.startswith("--") and word != "--output" for word in overrides) and asked not in loaded:
            plain_load(files, overrides)
            loaded.add(asked)
        raise _Read

    def load_study(file, *, configs, overrides, only):
        assert file.is_file()
        load(configs, overrides)

    monkeypatch.setattr(Parser, "parse_args", parse)
    monkeypatch.setattr(configuration, "load", load)
    monkeypatch.setattr("fastsemi.tools.study.study_file.load_study", load_study)
    for name in ("require_run", "require_model"):
        monkeypatch.setattr(RunFolder, name, lambda self: None)

    def read(words: list[str]) -> str | None:
        for option, file in itertools.pairwise(words):
            path = tmp_path / file
            if option == "--config" and not file.startswith(("configs/", "/", "..")):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("# the reader's own\n")
        try:
            code = main(words)
        except (_Read, SystemExit):
            return None
        finally:
            said = capsys.readouterr().err
        return said.removeprefix(SAID).strip() if code else None

    return read


def command_lines(text: str) -> Iterator[tuple[list[str], str | None]]:
    """The words behind `fastsemi` of each command line of a page, and the error shown for it, if any."""
    for language, block in FENCED.findall(text):
        if language in ("", "bash", "text"):
            lines = block.replace("\\\n", " ").splitlines()
            if language == "text":  # what a command prints, with an example
                lines = [line for line in lines if line.startswith("example: ")]
            for line, after in zip(lines, [*lines, ""][1:], strict=True):
                error = after.removeprefix(SAID) if after.startswith(SAID) else None
                yield from ((words, error) for words in _words(line))
    text = FENCED.sub("", text)
    for line in INDENTED.findall(text):
        yield from ((words, None) for words in _words(line))
    for code in CODE.findall(text):
        for words in _words(" ".join(code.split())):
            if words[0] not in COMMANDS or words[1:] not in ([], ["beton"]):  # those alone are names
                yield words, None


def _words(line: str) -> Iterator[list[str]]:
    line = re.sub(r"\[(--[^\]]*)\]", r"\1", line.removeprefix("$ ").removeprefix("example: "))
    if not re.search(r"(?:^|&& |-m )fastsemi ", line):
        return
    found: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "|", "||", ";"):
            found.append([])
        else:
            found[-1].append(word)
    for words in found:
        if words[:1] == ["fastsemi"] or "-m fastsemi" in " ".join(words):
            yield [_filled(word, words) for word in words[words.index("fastsemi") + 1 :]]


def _filled(word: str, words: list[str]) -> str:
    """A word with what it leaves open filled in: `IMAGES...`, `onnx|pt2`, `configs/imagenet/P.yaml`."""
    if "study" in words and word in ("FILE", "configs/studies/tableN.yaml"):
        return STUDY
    word = word.replace("/P.yaml", "/vit_base_10p.yaml").partition("|")[0].removesuffix("...") or "my.yaml"
    return STAND_FOR.get(word, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_line_is_one(page, reads):
    known: dict[tuple[str, ...], str | None] = {}
    wrong = []
    for words, error in command_lines(page.read_text()):
        if tuple(words) not in known:
            known[tuple(words)] = reads(words)
        if known[tuple(words)] != error:
            wrong.append(f"fastsemi {shlex.join(words)}: {known[tuple(words)]}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("`fastsemi trian`", "did you mean train?"),
        ("`fastsemi train --config photos.yaml --semi.treshold 1`", "did you mean semi.threshold?"),
        ("`fastsemi train --semi.threshold high`", "it must be a number"),
        ("```bash\nfastsemi init photos && fastsemi probe --quick\n```", "unknown key quick"),
        ("```\n$ fastsemi data digit \\\n  out\n```", "invalid choice: 'digit'"),
        ("    fastsemi init photos --per-class 3", "unrecognized arguments: --per-class"),
        ("`torchrun -m fastsemi predict a.png --top many`", "invalid int value: 'many'"),
        ("`fastsemi help semi.treshold`", "did you mean semi.threshold?"),
        ("`fastsemi study FILE --semi.treshold 1`", "did you mean semi.threshold?"),
        ("`fastsemi suggest RUN --counts 3`", "unknown key counts"),
        ("`fastsemi completion tcsh`", "invalid choice: 'tcsh'"),
    ],
)
def test_a_wrong_command_line_is_found(text, said, reads):
    answers = [reads(words) for words, _ in command_lines(text)]
    assert answers and said in (answers[-1] or "")


def test_a_shown_error_is_the_one_that_comes(reads):
    shown = "```\n$ fastsemi trian\nfastsemi: error: no such thing\n```"
    ((words, error),) = command_lines(shown)
    assert error == "no such thing" and reads(words) not in (None, error)
