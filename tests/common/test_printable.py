"""What files are called never commands the terminal, nor the spreadsheet."""

import io
import logging
import sys

import pytest
from rich.table import Table

from fastsemi.common.files import csv_safe
from fastsemi.common.leaving import ready_streams
from fastsemi.common.printable import PrintableFormatter, printable
from fastsemi.common.progress import QuietConsole

CASES = {
    "plain é ß 猫 🐈 \u200d\u00a0": "plain é ß 猫 🐈 \u200d\u00a0",
    "\x1b]0;title\x07\x1b[31mred": r"\x1b]0;title\x07\x1b[31mred",
    "gpj.\u202eexe": r"gpj.\u202eexe",
    "a\nb\tc\r\x00\x7f\x9b\u2028": r"a\nb\tc\r\x00\x7f\x9b\u2028",
    "caf\udce9": r"caf\udce9",
}


@pytest.mark.parametrize(("text", "shown"), CASES.items())
def test_what_commands_a_terminal_is_written_out(text, shown):
    assert printable(text) == shown


def test_log_records_are_one_line_without_commands():
    record = logging.LogRecord("x", logging.INFO, "", 1, "skipped %s", ("\x1b[2J\n.png",), None)
    assert PrintableFormatter("fastsemi: %(message)s").format(record) == r"fastsemi: skipped \x1b[2J\n.png"


def test_a_console_shows_names_in_lines_and_tables():
    file = io.StringIO()
    console = QuietConsole(file=file, width=60, force_terminal=True, color_system="standard")
    table = Table("[red]part[/red]")
    table.add_row("\x1b[2Jname")
    console.print(table)
    console.print("\u202ename", markup=False, highlight=False)
    assert r"\x1b[2Jname" in file.getvalue() and r"\u202ename" in file.getvalue()
    assert "\x1b[2J" not in file.getvalue() and "\u202e" not in file.getvalue()
    assert "\x1b[1;31mpart" in file.getvalue(), "colours of the table's own"


def test_what_an_encoding_lacks_is_written_out(monkeypatch):
    buffer = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(buffer, encoding="ascii"))
    ready_streams()
    sys.stdout.write("café \udce9")
    sys.stdout.flush()
    assert buffer.getvalue() == rb"caf\xe9 \udce9"


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1+2", "'+1+2"),
        ("-2+3", "'-2+3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        ("-0.5", "-0.5"),
        ("+1e-3", "+1e-3"),
        ("a=1", "a=1"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula(text, cell):
    assert csv_safe(text) == cell
