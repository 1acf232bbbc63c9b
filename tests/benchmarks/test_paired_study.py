"""Paired differences of a study."""

import pytest
from scipy.stats import ttest_rel

from benchmarks.harness.paired_study import paired


def test_differences_are_paired_by_seed_and_their_interval_is_students(tmp_path):
    none, prob = {"0": 90.0, "1": 80.0, "2": 85.0}, {"0": 91.0, "2": 88.0, "1": 82.0}
    lines = ["preset,mixing,seed,finetune,student,teacher,seconds,run"]
    for name, found in (("none", none), ("prob", prob)):
        lines += [f"x,{name},{seed},70,0,{top1},1,r" for seed, top1 in found.items()]
    path = tmp_path / "seeds.csv"
    path.write_text("\n".join([*lines, "x,prob,3,70,,,,"]))
    row = paired({"digits": path}, "mixing", "none").splitlines()[-1]
    cells = [cell.strip() for cell in row.split("|")[1:-1]]
    assert cells[:5] == ["digits", "prob", "70.0 ± 0.0", "87.0 ± 4.6", "+2.0 ± 1.0"] and cells[6] == "3"
    interval = ttest_rel([prob[s] for s in none], list(none.values())).confidence_interval()
    low, high = map(float, cells[5].split(" to "))
    assert (low, high) == (pytest.approx(interval.low, abs=0.05), pytest.approx(interval.high, abs=0.05))
