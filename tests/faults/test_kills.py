"""A run that is killed three times ends with the weights of one that was left alone."""

import importlib.util
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def kills(warm):
    """The module `kills.py` of this folder."""
    spec = importlib.util.spec_from_file_location("kills", Path(__file__).with_name("kills.py"))
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_kills_change_no_bit(kills, tmp_path):
    words = ["train", "--config", str(kills.preset(tmp_path, 6)), "--loader.engine", "reference"]
    words += ["--stages", "[semi]", "--output"]
    kills.run_to_the_end([*words, str(tmp_path / "alone")], tmp_path / "alone.log", [])
    # inside of the first checkpoint, inside of the second one, anywhere
    moments = [kills.Kill(syncs=7), kills.Kill(syncs=14), kills.Kill(seconds=0.5)]
    ended = kills.run_to_the_end([*words, str(tmp_path / "killed")], tmp_path / "killed.log", moments)
    assert ended.in_writing == 2 and ended.kills in (2, 3)
    assert len(kills.weights(tmp_path / "alone")) > 20
    assert not kills.differing(kills.weights(tmp_path / "killed"), kills.weights(tmp_path / "alone"))
    assert "resumes at step" in (tmp_path / "killed.log").read_text()
