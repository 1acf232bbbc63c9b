import pytest

from fastsemi.common.errors import UserError
from fastsemi.common.seconds import duration, read_seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90 s", 90),
        ("10 minutes", 600),
        ("1 minute", 60),
        ("2 h", 7200),
        ("1.5 hours", 5400),
        ("1 h 30 min", 5400),
        ("1h30m", 5400),
        (" 2D ", 172800),
    ],
)
def test_times_as_people_write_them(text, seconds):
    assert read_seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["10", "", "ten minutes", "0 s", "-5 s", "10 ms", "5 s later", "1,5 h", "h", f"{'9' * 400} h"]
)
def test_what_is_no_time_is_refused_with_examples(text):
    with pytest.raises(UserError, match=r"is no time.*'90 s', '10 minutes'"):
        read_seconds(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9 s"), (59.7, "1 min 00 s"), (139, "2 min 19 s"), (7260, "2 h 01 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
