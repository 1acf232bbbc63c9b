"""The site of docs/: every page is in the navigation, and what is generated is that of today."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FETCHED = re.compile(
    r"""!\[[^]]*\]\(https?:|src=["']?https?:|url\(["']?https?:|href=["']https?:|^```mermaid""", re.MULTILINE
)


def _script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def settings() -> dict:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text())


def named(nav: list | dict | str) -> list[str]:
    """The pages of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    inside = nav.values() if isinstance(nav, dict) else nav
    return [page for part in inside for page in named(part)]


def test_every_page_is_in_the_navigation_once(settings):
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    tables = {page for page in pages if page.endswith("/table.md")}
    assert settings["exclude_docs"].split() == ["studies/*/table.md"]
    outside = _script("mkdocs_hook").PAGES
    assert all((ROOT / name).is_file() for name in outside)
    assert sorted(named(settings["nav"])) == sorted((pages - tables) | set(outside.values()))


def test_the_site_asks_other_servers_for_nothing(settings):
    """What a reader's browser would fetch: fonts, cards of a repository, scripts, pictures, Mermaid."""
    assert settings["theme"]["font"] is False
    assert not {"repo_url", "extra_javascript", "extra_css"} & set(settings)
    for page in [*(ROOT / "docs").rglob("*.md"), *(ROOT / "docs").rglob("*.svg"), ROOT / "CONTRIBUTING.md"]:
        text = page.read_text().replace('xmlns="http', "")
        assert not FETCHED.search(text), page


def test_the_page_of_the_commands_is_what_they_print():
    written = _script("commands_page")
    assert written.PAGE.read_text() == written.page(), "run: python scripts/commands_page.py"
