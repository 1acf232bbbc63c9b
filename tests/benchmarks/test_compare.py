"""The command that compares results: what became slower, from two files, two folders or the history."""

import pytest

from benchmarks.harness import compare, harness
from fastsemi.common.errors import UserError


def _write(path, seconds, name="a"):
    left = iter([9.0, *seconds])
    case = harness.Case(name, lambda: None, 10, lambda run: next(left))
    measured = harness.measure([case], rounds=len(seconds))
    harness.write(path, harness.rows(measured, unit="ms", threads=1, configuration={}))


@pytest.fixture
def results(tmp_path):
    """Folders `old` and `new`; what is in `new` takes twice as long."""
    for folder, factor in (("old", 1), ("new", 2)):
        (tmp_path / folder).mkdir()
        _write(tmp_path / folder / "steps.json", [factor * s for s in (1.0, 1.01, 1.02, 1.03, 1.04)])
    return tmp_path


def test_the_command_exits_with_1_for_a_regression_and_prints_ratio_and_spread(results, capsys):
    old, new = results / "old", results / "new"
    file = "steps.json"
    for pair, code in (
        ((old, new), 1),
        ((new, old), 0),
        ((old, old), 0),
        ((old / file, new / file), 1),
        ((new / file, old / file), 0),
    ):
        assert compare.main([*map(str, pair)]) == code
    out = capsys.readouterr().out
    assert "slower  -50.0% (-51.2% to -48.8%)" in out and "1020 ->       2040 ms  a, 1 threads" in out
    assert compare.main([str(old), str(new), "--threshold", "0.6"]) == 0


def test_the_newest_two_of_the_history_are_compared(results, monkeypatch, capsys):
    monkeypatch.setattr(compare, "RESULTS", results)
    machine = compare.environment()["hardware"]["name"]
    (results / machine).mkdir()
    assert compare.main([]) == 2
    assert "fewer than two" in capsys.readouterr().err
    stamps = iter(["20300101-000000", "20300102-000000", "20300103-000000"])
    monkeypatch.setattr(compare.time, "strftime", lambda *args: next(stamps))
    for folder in ("new", "old", "new"):
        (results / machine / "steps.json").write_text((results / folder / "steps.json").read_text())
        assert compare.main(["--record", str(results / machine)]) == 0
    assert compare.main([]) == 1
    out = capsys.readouterr().out
    assert "20300102-000000" in out and "20300103-000000" in out


def test_gpu_suites_are_compared_by_their_dates(results):
    for date in ("20300101-0000", "20300103-0000", "20300102-0000"):
        (results / f"gpu-{date}").mkdir()
    (results / "gpu").mkdir()
    assert [path.name for path in compare.newest(results, "gpu")] == [
        "gpu-20300102-0000",
        "gpu-20300103-0000",
    ]


def test_what_cannot_be_compared_is_named_in_one_line(results, capsys):
    (results / "empty").mkdir()
    for options, message in (
        ([results / "old"], "one result alone"),
        ([results / "old", results / "empty"], "no results of one name"),
        (["--record", results / "empty"], "holds no results"),
    ):
        assert compare.main([*map(str, options)]) == 2
        assert message in (text := capsys.readouterr().err) and text.count("\n") == 1
    (results / "old" / "index.json").write_text("[]")
    (results / "new" / "index.json").write_text('{"other": 1}')
    assert compare.main([str(results / "old"), str(results / "new")]) == 1
    assert "skipped index.json" in capsys.readouterr().out
    (results / "empty" / "index.json").write_text("[]")
    with pytest.raises(UserError, match="nothing that can be compared"):
        compare.compare(results / "new", results / "empty", 0.05)
