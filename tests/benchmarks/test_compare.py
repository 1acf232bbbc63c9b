"""The command that compares results: what became slower, from two files, two folders or the history."""

import subprocess

import pytest

from benchmarks.harness import compare, environment, harness, history
from fastsemi.common.errors import UserError


def _write(path, seconds, name="a", git="0123456789ab"):
    left = iter([9.0, *seconds])
    case = harness.Case(name, lambda: None, 10, lambda run: next(left))
    measured = harness.measure([case], rounds=len(seconds))
    rows = harness.rows(measured, unit="ms", threads=1, configuration={})
    harness.write(path, [{**row, "git": git} for row in rows])


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
    monkeypatch.setattr(history.time, "strftime", lambda *args: next(stamps))
    for folder in ("new", "old", "new"):
        (results / machine / "steps.json").write_text((results / folder / "steps.json").read_text())
        assert compare.main(["--record", str(results / machine)]) == 0
    assert compare.main([]) == 1
    out = capsys.readouterr().out
    assert "20300102-000000-0123456789ab" in out and "20300103-000000-0123456789ab" in out


def test_results_of_a_changed_tree_are_not_kept(results, capsys):
    _write(results / "new" / "index.json", [1.0, 1.0, 1.0, 1.0, 1.0], git="0123456789ab+")
    assert compare.main(["--record", str(results / "new")]) == 0
    out = capsys.readouterr()
    assert out.out == "" and out.err.startswith("not kept in the history: index.json") and "commit" in out.err
    assert not (results / "new" / "history").exists()
    with pytest.raises(UserError, match=r"index\.json in .*: measured with uncommitted changes"):
        history.record(results / "new")


def test_a_tree_is_changed_by_its_code_alone(tmp_path, monkeypatch):
    def git(*words):
        author = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", *author, *words], cwd=tmp_path, check=True, capture_output=True)

    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    for name in ("code.py", "README.md", "benchmarks/results/a.json"):
        (tmp_path / name).write_text("1")
    git("init")
    git("add", ".")
    git("commit", "-m", "all")
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "benchmarks" / "environment.py"))
    commit = environment._git()
    assert len(commit) == 12
    for name in ("README.md", "benchmarks/results/a.json"):
        (tmp_path / name).write_text("2")
    (tmp_path / "new.py").write_text("1")
    assert environment._git() == commit
    (tmp_path / "code.py").write_text("2")
    assert environment._git() == commit + "+"


def test_gpu_suites_are_compared_by_their_dates(results):
    for date in ("20300101-0000", "20300103-0000", "20300102-0000"):
        (results / f"gpu-{date}").mkdir()
    (results / "gpu").mkdir()
    assert [path.name for path in history.newest(results, "gpu")] == [
        "gpu-20300102-0000",
        "gpu-20300103-0000",
    ]


def test_rows_of_whole_programs_have_no_number_of_threads(results, capsys):
    for folder in ("old", "new"):
        path = results / folder / "steps.json"
        rows = [{k: v for k, v in row.items() if k != "threads"} for row in harness.read(path)]
        harness.write(path, rows)
    assert compare.main([str(results / "old"), str(results / "new")]) == 1
    assert "2040 ms  a\n" in capsys.readouterr().out


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
