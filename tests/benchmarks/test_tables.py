"""No number in a table is typed by hand."""

import re

from benchmarks.harness import tables


def test_the_tables_in_the_documents_are_those_of_the_results():
    found = set()
    for name in tables.DOCUMENTS:
        text = (tables.ROOT / name).read_text()
        assert tables.render(text) == text, f"run python -m benchmarks.harness.tables: {name} is stale"
        found |= set(re.findall(r"<!-- table ([\w-]+) -->", text))
    assert found == set(tables.TABLES), "every table has a place"


def test_a_changed_number_is_noticed():
    text = (tables.ROOT / "README.md").read_text()
    table = re.search(r"<!-- table headline -->\n(.*?)\n<!-- end -->", text, re.DOTALL)[1]
    forged = table.replace(re.findall(r"\d\d\.\d", table)[0], "99.9", 1)
    assert tables.render(text.replace(table, forged)) == text
