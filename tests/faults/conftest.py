"""What the tests of faults share."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def damage():
    """The module `damage.py` of this folder."""
    spec = importlib.util.spec_from_file_location("damage", Path(__file__).with_name("damage.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
