"""The table of classes that `fastsemi evaluate` prints."""

import io

from rich.console import Console

from fastsemi.run.evaluation import table_of_classes
from fastsemi.training.scores import ClassScore


def test_the_name_of_a_class_is_shown_and_commands_no_terminal():
    rows = [ClassScore(name, 3, 4, 100.0, 75.0, None) for name in ("[b]x", "a\x1b[31mb", "gpj\u202eexe")]
    console = Console(file=io.StringIO(), width=100)
    console.print(table_of_classes(rows))
    text = console.file.getvalue()
    assert "[b]x" in text and r"a\x1b[31mb" in text and r"gpj\u202eexe" in text
    assert "\x1b" not in text and "\u202e" not in text and "75.0" in text
