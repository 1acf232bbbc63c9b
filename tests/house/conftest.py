"""What the tests of the house share: its floors, and a copy of it to build on."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
collect_ignore = ["toys"]  # parts of the copy that test_contributing.py makes
BULKY = ("__pycache__", "results", "*.egg-info")


def _load(name: str):
    """A file beside this one as a module: the tests are no package."""
    spec = importlib.util.spec_from_file_location(f"house_{name}", Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def floors():
    """The module `floors.py`."""
    return _load("floors")


@pytest.fixture(scope="session")
def copy_tree():
    """The function `copy_tree(root)`: a copy of the code, links and all, and of what its tests share."""

    def copy(root: Path) -> Path:
        for top in ("fastsemi", "loaders", "kernels", "benchmarks"):
            shutil.copytree(ROOT / top, root / top, symlinks=True, ignore=shutil.ignore_patterns(*BULKY))
        (root / "tests").mkdir()
        for name in ("pyproject.toml", "tests/conftest.py"):
            shutil.copy(ROOT / name, root / name)
        shutil.copytree(ROOT / "tests/loaders", root / "tests/loaders", ignore=shutil.ignore_patterns(*BULKY))
        return root

    return copy


@pytest.fixture
def copy(copy_tree, tmp_path) -> Path:
    """Such a copy, to change."""
    return copy_tree(tmp_path / "copy")
