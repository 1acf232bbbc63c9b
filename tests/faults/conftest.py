"""What the tests of faults share."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def damage():
    """The module `damage.py` of this folder."""
    return _module("damage")


def _module(name):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stalled():
    """The function `stalled(path)`: a block in which whoever opens the file waits for ever."""
    return _module("stalled").stalled
