"""Lengths that are chosen for several processes together."""

from fastsemi.run import config as configuration
from fastsemi.tools.budget import budget, lengths, measure


def test_two_processes_choose_the_same_lengths(preset, processes, tmp_path, monkeypatch):
    """A budget that is long on any machine, and the most that it gives; every stage ends."""
    monkeypatch.setattr(lengths, "MOST", 3.4)
    monkeypatch.setattr(budget, "_LONGEST", 0.01)
    monkeypatch.setattr(measure, "_MOST", 3)
    shorter = ["--semi.length", "3 steps", "--semi.warmup", "1 steps", "--stages", "[pretrain, semi]"]
    folder, words = preset("run", *shorter, "--budget", "1 h")
    codes, said = processes.run(2, words, tmp_path / "log")
    assert codes == [0, 0], said
    stored = configuration.load([folder / "config.yaml"], [])
    assert stored.pretrain.length == stored.semi.length == "10 steps"
    assert "pretrain 10 steps, semi 10 steps" in said[0]
    assert "of the 1 h 00 min it was given" in said[0] and not said[1]
    assert {row["step"] for row in processes.rows(folder, "semi")} == set(range(1, 11))
