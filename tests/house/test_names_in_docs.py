"""Every file, module, function and page that a page, a docstring or a comment names is there."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import io
import os
import re
import tokenize
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastsemi
from fastsemi.run.config import Config, known_keys
from fastsemi.stages.names import StageName

ROOT = Path(__file__).parents[2]
TREES = (
    "fastsemi",
    "loaders",
    "kernels",
    "benchmarks",
    "tests",
    "scripts",
    "configs",
    "docs",
    ".github",
    ".ci",
)
KINDS = ("py", "md", "cpp", "h", "inc", "sh", "sbatch", "yaml", "yml", "toml", "j2", "cff")
# What stands for a name to fill in, loaders/engines/NAME.py, and what `fastsemi export` writes.
IMAGINED = re.compile(r"(^|[/_])(NAME|RUN|P)[/_.]|tableN\.yaml|nowhere\.yaml|(^|[/_])preprocess\.py$")
FOREIGN = {"vits.py"}  # files of other projects
KEYS_TO_REFUSE = {"semi.treshold"}  # an example of an error

PATH = re.compile(rf"(?<![\w/.\-{{}}*])((?:\.?[\w\-]+/)*[\w\-]+\.(?:{'|'.join(KINDS)}))\b(?![/(\w-])")
SEVERAL = re.compile(r"`([\w/*\-]*\*[\w/*\-]*\.(?:py|cpp|h|inc))`")
FOLDER = re.compile(rf"(?<![\w/.\-])((?:{'|'.join(TREES)})/(?:[\w\-]+/)+)(?![\w*{{.<])")
DOTTED = re.compile(r"(?<![\w./])((?:fastsemi|benchmarks)(?:\.[A-Za-z_]\w*)+)(?!\.?\w)")
SHORT = re.compile(
    r"`((?:kernels|loaders|training|stages|models|parallel|common|tools|commands|run|plan|engines|sources)"
    r"(?:\.[A-Za-z_]\w*)+)`"
)
MEMBER = re.compile(r"`([A-Z]\w*[a-z]\w*)\.([a-z_]\w*)(?:\(\))?`")
# A file in a cell of a table, and the name in the cell behind it.
CELLS = re.compile(r"\| `([\w/.]+\.(?:py|cpp|h|inc))` \| `([A-Za-z_][\w.]*)`")
SECTION = re.compile(
    r"(?:--|`)((?:data|loader|model|compile|distributed|pretrain|finetune|semi)(?:\.[a-z_]\w*)+)(?=[` =:])"
)
TARGET = re.compile(r"(?:^|`)make ([a-z][\w-]*)")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


@functools.cache
def tracked() -> list[Path]:
    """The files with text of the project's own."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for tree in TREES:
        for folder, inside, names in os.walk(ROOT / tree):  # which does not follow links
            inside[:] = [name for name in inside if name not in ("__pycache__", "results", "toys")]
            found += [Path(folder, name) for name in names]
    return [p for p in found if p.suffix[1:] in KINDS or p.name in ("Makefile", "run")]


def words(path: Path) -> Iterator[tuple[int, str]]:
    """What a file tells readers, by line: of Python docstrings and comments, of C++ comments, else all."""
    text = path.read_text()
    if path.suffix != ".py":
        in_comments = path.suffix in (".cpp", ".h", ".inc")
        for number, line in enumerate(text.splitlines(), 1):
            yield number, line.partition("//")[2] if in_comments else line
        return
    for node in statements(tree_of(path).body):
        value = getattr(node, "value", None)
        is_text = isinstance(value, ast.Constant) and isinstance(value.value, str)
        if isinstance(node, ast.Expr) and is_text:  # docstrings, those of fields too
            yield from enumerate(text.splitlines()[node.lineno - 1 : node.end_lineno], node.lineno)
    for token in tokenize.generate_tokens(io.StringIO(text).readline) if "#" in text else ():
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Those of a body, and of all within them."""
    for node in body:
        yield node
        for inside in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from statements(getattr(node, inside, []))


@functools.cache
def file_names() -> frozenset[str]:
    """The names of all files, without their folders."""
    return frozenset(path.name for path in tracked())


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """The syntax tree of a file."""
    return ast.parse(path.read_text())


@functools.cache
def classes() -> dict[str, set[str]]:
    """The members of every class of the project, by its name; of classes with bases theirs too."""
    members: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for path in tracked():
        for node in statements(tree_of(path).body) if path.suffix == ".py" else ():
            if isinstance(node, ast.ClassDef):
                members.setdefault(node.name, set()).update(_members(node))
                bases.setdefault(node.name, set()).update(
                    ast.unparse(b).rpartition(".")[2] for b in node.bases
                )
    for _ in range(4):  # deep enough for every chain of bases here
        for name, above in bases.items():
            for base in above:
                members[name] |= members.get(base, set())
    return members


def _members(node: ast.ClassDef) -> set[str]:
    found = {n.name for n in node.body if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Attribute)
            and isinstance(inner.value, ast.Name)
            and inner.value.id == "self"
        ):
            found.add(inner.attr)
        elif isinstance(inner, ast.AnnAssign | ast.Assign):
            targets = inner.targets if isinstance(inner, ast.Assign) else [inner.target]
            found |= {t.id for t in targets if isinstance(t, ast.Name)}
    return found


@functools.cache
def keys() -> frozenset[str]:
    """The dotted keys of the configuration."""
    return frozenset(known_keys())


@functools.cache
def targets() -> frozenset[str]:
    """The targets of the Makefile."""
    return frozenset(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def is_file(name: str, beside: Path) -> bool:
    """Whether a path names a file: from the root, from `fastsemi/`, or from the file that names it."""
    near = ROOT / "docs" if beside.name == "mkdocs.yml" else beside.parent
    if any((folder / name).is_file() for folder in (ROOT, ROOT / "fastsemi", ROOT / "configs", near)):
        return True
    if "/" in name:
        return False
    # A name alone may be that of a user's file, unless it is one of code.
    return name in file_names() | FOREIGN or name.endswith((".yaml", ".yml", ".toml", ".md"))


def is_module(name: str) -> bool:
    """Whether a dotted name is a module of the project, or what one defines."""
    folder, parts = ROOT, name.split(".")
    if parts[:2] == ["fastsemi", "_native"]:
        return True  # compiled from kernels/csrc
    while parts and (folder / parts[0]).is_dir():
        folder = folder / parts.pop(0)
    path = folder / "__init__.py"
    if parts and (folder / f"{parts[0]}.py").is_file():
        path = folder / f"{parts.pop(0)}.py"
    if path == ROOT / "fastsemi" / "__init__.py" and len(parts) == 1:
        return parts[0] in fastsemi.__all__  # the API, whose names come when they are asked for
    return not parts or (path.is_file() and _defines(tree_of(path).body, parts))


def is_in(name: str, path: Path) -> bool:
    """Whether a file defines a function, a class or a member of one; of C++ whether it has the word."""
    if path.suffix == ".py":
        return _defines(tree_of(path).body, name.split("."))
    return re.search(rf"\b{name}\b", path.read_text()) is not None


def _defines(body: list[ast.stmt], parts: list[str]) -> bool:
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name == parts[0]:
            return len(parts) == 1 or parts[1] in classes()[node.name]
        if isinstance(node, ast.FunctionDef) and node.name == parts[0]:
            return True
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if parts[0] in {t.id for t in targets if isinstance(t, ast.Name)}:
                return True
    return False


def missing(line: str, path: Path) -> Iterator[str]:
    """The names in a line that name nothing."""
    for match in PATH.finditer(line):
        before = line[max(0, match.start() - 3) : match.start()]
        if not IMAGINED.search(match[1]) and "//" not in before and not is_file(match[1], path):
            yield match[1]
    for match in SEVERAL.finditer(line):
        if not any(path.match(match[1]) for path in tracked()):
            yield match[1]
    for match in FOLDER.finditer(line):
        if not IMAGINED.search(match[1]) and not (ROOT / match[1]).is_dir():
            yield match[1]
    for match in DOTTED.finditer(line):
        if match[1].rpartition(".")[2] not in (*KINDS, "json") and not is_module(match[1]):
            yield match[1]
    for match in SHORT.finditer(line):
        name = match[1]
        inside = [f"fastsemi.{name}", f"fastsemi.loaders.{name}"]
        if name.rpartition(".")[2] not in KINDS and not any(map(is_module, inside)):
            yield name
    for match in MEMBER.finditer(line):
        if match[1] in classes() and match[2] not in classes()[match[1]]:
            yield f"{match[1]}.{match[2]}"
    for match in CELLS.finditer(line):
        if (ROOT / match[1]).is_file() and not is_in(match[2], ROOT / match[1]):
            yield f"{match[2]} in {match[1]}"
    if path.suffix in (".md", ".yml"):
        for match in SECTION.finditer(line):
            name = match[1]
            if name not in keys() and not name.startswith("model.args.") and name not in KEYS_TO_REFUSE:
                if name.rpartition(".")[2] not in KINDS:
                    yield name
        yield from (f"make {t}" for t in TARGET.findall(line) if t not in targets())


def test_every_name_names_something():
    wrong = [
        f"{path.relative_to(ROOT)}:{number} {name}"
        for path in tracked()
        for number, line in words(path)
        for name in missing(line, path)
    ]
    assert not wrong, "\n".join(["", *wrong])


def test_the_table_of_sections_names_the_files_that_define_them():
    page = (ROOT / "docs/configuration.md").read_text()
    for name, kind in typing.get_type_hints(Config).items():
        if dataclasses.is_dataclass(kind) and name not in typing.get_args(StageName):
            row = re.search(rf"^\| `{name}` \|.* \| `([\w/.]+)` \|$", page, re.MULTILINE)
            assert row, f"docs/configuration.md has no row of {name}"
            assert (ROOT / row[1]).samefile(inspect.getfile(kind)), name


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def test_every_link_of_a_page_leads_somewhere():
    wrong = []
    for page in (path for path in tracked() if path.suffix == ".md"):
        for target in LINK.findall(page.read_text()):
            name, _, anchor = target.partition("#")
            if "://" in name:
                continue
            end = page.parent / name if name else page
            if not end.exists() or (anchor and anchor not in anchors(end)):
                wrong.append(f"{page.relative_to(ROOT)}: {target}")
    assert not wrong, "\n".join(["", *wrong])


@pytest.mark.parametrize(
    "line",
    [
        "is in `stages/semy.py`",
        "see fastsemi/trainer.py for it",
        "a file each in `fastsemi/thresholds/`",
        "and the `frobnicate_*.py` beside it",
        "`semy.py` does it",
        "as fastsemi.stages.semy says",
        "as `fastsemi.stages.semi.Semi.frobnicate` says",
        "as `fastsemi.stages.semi.frobnicate` says",
        "`kernels.reference.mixx` specifies it",
        "call `fastsemi.trian` for it",
        "called by `Semi.frobnicate`",
        "| step | `fastsemi/stages/semi.py` | `frobnicate` |",
        "| step | `fastsemi/stages/semi.py` | `StageConfig.peak_lr` |",
        "set `semi.frobnication` to 1",
        "with `--semi.frobnication 1`",
        "run `make frobnication`",
    ],
)
def test_a_name_of_nothing_is_found(line):
    assert len(list(missing(line, ROOT / "README.md"))) == 1


@pytest.mark.parametrize(
    "line",
    [
        "is in `stages/semi.py`, see fastsemi/training/trainer.py and `semi.py`",
        "as fastsemi.stages.semi and `fastsemi.stages.semi.Semi.loss` say; `Semi.after_update`",
        "`training.checkpoint.folder`, loaders/engines/NAME.py, https://example.org/a/b.py",
    ],
)
def test_a_name_of_something_is_not(line):
    assert not list(missing(line, ROOT / "README.md"))
