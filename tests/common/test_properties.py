"""What holds for any duration and any folder of files."""

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("hypothesis", reason="needs hypothesis: pip install 'fastsemi[test]'")
from hypothesis import given, settings
from hypothesis import strategies as some

from fastsemi.common.checksums import LIST, damage, write_checksums
from fastsemi.common.schedule import Duration

few = settings(max_examples=30, derandomize=True, deadline=None, database=None)
numbers = some.decimals(0, 10**15, allow_nan=False, places=6) | some.integers(0, 10**15)
names = some.text("abcxyz.-_ é", min_size=1, max_size=9).filter(lambda n: n.strip(". ") and n != LIST)


@few
@given(numbers, some.sampled_from(["epoch", "epochs", "step", "steps"]), some.sampled_from(["", " ", "  "]))
def test_a_duration_is_what_it_writes(number, unit, space):
    duration = Duration(f"{space}{number:f}{space}{unit}{space}" if number else f"0{unit}")
    again = Duration(str(duration))
    assert (str(again), again.value, again.unit) == (str(duration), duration.value, duration.unit)
    assert duration.value == pytest.approx(float(number), rel=1e-11)
    if duration.unit == "steps":
        assert duration.steps(7) == duration.steps(1) == round(duration.value)
    else:
        assert duration.steps(8) == pytest.approx(8 * duration.value, abs=0.5, rel=1e-9)


@few
@given(some.floats(1e-9, 1e-3))
def test_nor_is_a_small_one_lost(number):
    duration = Duration(f"{number:.20f} epochs")
    assert Duration(str(duration)).value == duration.value == pytest.approx(number, rel=1e-6)


@few
@given(some.dictionaries(names, some.binary(max_size=40), min_size=1, max_size=4), some.data())
def test_any_change_of_any_file_is_found(files, data):
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        for name, content in files.items():
            (folder / name).write_bytes(content)
        write_checksums(folder)
        assert damage(folder, files) is None
        name = data.draw(some.sampled_from(sorted(files)))
        other = data.draw(some.binary(max_size=40).filter(lambda content: content != files[name]))
        (folder / name).write_bytes(other)
        assert damage(folder) == f"{name} is not what was written"
        (folder / name).unlink()
        assert damage(folder) == f"{name} is missing"
        assert damage(folder, ["absent"]) is not None
