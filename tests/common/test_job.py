"""A work in shares."""

from pathlib import Path

import pytest

from fastsemi.common.errors import UserError
from fastsemi.common.job import Job


@pytest.mark.parametrize(("total", "count"), [(10, 3), (2, 5), (0, 2), (7, 1), (100, 100)])
def test_shares_in_a_row_are_all_in_order(total, count):
    things = list(range(total))
    shares = [things[Job(i, count).share(total)] for i in range(1, count + 1)]
    assert [thing for share in shares for thing in share] == things and max(map(len, shares)) - min(
        map(len, shares)
    ) <= 1


def test_files_sort_as_jobs_do():
    names = [Job.parse(f"{i}/12").file(Path("out/a.csv")) for i in range(1, 13)]
    assert names == sorted(names) and names[1] == Path("out/a-02-of-12.csv")
    assert Job.parse("1/1").file(Path("a.csv")) == Path("a.csv")


@pytest.mark.parametrize("text", ("0/3", "4/3", "3", "a/b", "-1/3", "1/0", ""))
def test_what_is_no_job(text):
    with pytest.raises(UserError, match=r"--job is .*; give NUMBER/COUNT"):
        Job.parse(text)
