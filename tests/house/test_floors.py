"""A room imports only from rooms that stand below it, and nothing goes round in circles."""

import ast

import pytest


@pytest.fixture(scope="module")
def root(floors):
    return floors.ROOT


def test_every_import_points_down(floors, root):
    wrong = floors.upward(root)
    assert not wrong, "\n".join(map(str, wrong))


@pytest.mark.parametrize("of_rooms", [True, False], ids=["rooms", "files"])
def test_nothing_goes_round_in_circles(floors, root, of_rooms):
    assert floors.circles(root, of_rooms=of_rooms) == []


def test_every_room_is_in_the_table_and_every_line_of_the_table_is_a_room(floors, root):
    rooms = floors.places()
    found = {floors.room_of(path, root, rooms) for path in floors.files(root).values()}
    assert found == set(rooms)


def test_every_folder_says_in_one_line_what_it_is_for_and_imports_nothing(floors, root):
    """What a folder's `__init__.py` imports, everything inside of the folder would import too.

    That of the package has the names of the API, which are imported when they are asked for.
    """
    for folder in {path.parent for path in floors.files(root).values()}:
        path = folder / "__init__.py"
        assert path.is_file(), f"{folder} has no __init__.py"
        tree = ast.parse(path.read_text())
        line = ast.get_docstring(tree)
        assert line and "\n" not in line, f"{path} needs a docstring of one line"
        if folder != root / "fastsemi":
            assert not [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)], path


def test_nothing_of_the_product_needs_benchmarks_or_tests(floors, root):
    needed = [
        each
        for each in floors.imports(root, floors.places())
        if each.module.split(".")[0] in ("benchmarks", "tests") and not each.file.startswith("benchmarks/")
    ]
    assert not needed, "\n".join(map(str, needed))


def test_both_links_lead_where_the_floors_look(root):
    for name in ("loaders", "kernels"):
        link = root / "fastsemi" / name
        assert link.is_symlink() and link.resolve() == root / name


def test_the_drawing_is_that_of_the_table(floors, root):
    page = (root / floors.PAGE).read_text()
    shown = page.partition(floors.BEGIN)[2].partition(floors.END)[0]
    assert shown == floors.drawing(root), "run: python tests/house/floors.py"


# What is added to a file, and the module that must be found.
PLANTED = {
    "at the top of a file": (
        "fastsemi/common/errors.py",
        "from fastsemi.models import create",
        "fastsemi.models.create",
    ),
    "inside a function": (
        "fastsemi/common/errors.py",
        "def f():\n    from fastsemi.models.create import create_model",
        "fastsemi.models.create",
    ),
    "by its full name, in a method": (
        "fastsemi/models/settings.py",
        "class A:\n    def f(self):\n        import fastsemi.common.files, fastsemi.stages.base",
        "fastsemi.stages.base",
    ),
    "for a type checker": (
        "loaders/plan/types.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from fastsemi.loaders.index.index import Index",
        "fastsemi.loaders.index.index",
    ),
    "relative": ("loaders/plan/types.py", "from ..engines import base", "fastsemi.loaders.engines.base"),
    "through the link": (
        "kernels/reference/mix.py",
        "from fastsemi.loaders.stream import Stream",
        "fastsemi.loaders.stream",
    ),
    "past the link": ("loaders/stream.py", "from loaders.plan import types", "loaders.plan.types"),
    "by a string": (
        "fastsemi/common/files.py",
        "import importlib\nimportlib.import_module('fastsemi.run')",
        "fastsemi.run",
    ),
    "of a room beside it": (
        "fastsemi/tools/doctor/check.py",
        "from fastsemi.tools.study import jobs",
        "fastsemi.tools.study.jobs",
    ),
    "of a room to the right": (
        "loaders/sources/base.py",
        "from fastsemi.loaders import stream",
        "fastsemi.loaders.stream",
    ),
    "of the measurements": (
        "fastsemi/commands/cli.py",
        "def f():\n    import benchmarks.step.steps",
        "benchmarks.step.steps",
    ),
    "of the tests": ("fastsemi/commands/cli.py", "import tests.conftest", "tests.conftest"),
    "from a folder that no floor has": (
        "fastsemi/attic/old.py",
        "from fastsemi.common import errors",
        "fastsemi.common.errors",
    ),
}


@pytest.fixture(scope="module")
def known(floors, root):
    """What is wrong without anything planted."""
    return {(each.file, each.module) for each in floors.upward(root)}


@pytest.mark.parametrize("where", PLANTED)
def test_a_planted_import_is_found(where, floors, known, copy):
    name, text, module = PLANTED[where]
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"{path.read_text() if path.exists() else ''}\n{text}\n")
    found = [each for each in floors.upward(copy) if (each.file, each.module) not in known]
    assert [(each.file, each.module) for each in found] == [(name, module)]
    assert module.rpartition(".")[2] in path.read_text().splitlines()[found[0].line - 1]


@pytest.mark.parametrize("line", ["from fastsemi.common import b", "def f():\n    import fastsemi.common.b"])
def test_a_planted_circle_of_files_is_found(line, floors, copy):
    (copy / "fastsemi/common/a.py").write_text(line + "\n")
    (copy / "fastsemi/common/b.py").write_text("from fastsemi.common.c import name\n")
    (copy / "fastsemi/common/c.py").write_text("def f():\n    from fastsemi.common.a import f\n")
    assert [f"fastsemi/common/{n}.py" for n in "abc"] in floors.circles(copy, of_rooms=False)
    assert not [c for c in floors.circles(copy, of_rooms=True) if "fastsemi/common" in c]


def test_a_planted_circle_of_rooms_is_found_though_no_files_go_round(floors, copy):
    (copy / "fastsemi/models/toy.py").write_text("from fastsemi.parallel import stop\n")
    (copy / "fastsemi/parallel/toy.py").write_text("def f():\n    from fastsemi.models import mae\n")
    assert ["fastsemi/models", "fastsemi/parallel"] in floors.circles(copy, of_rooms=True)
    assert not [c for c in floors.circles(copy, of_rooms=False) if "toy" in str(c)]
