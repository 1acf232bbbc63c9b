"""What mkdocs needs to know of this repository: pages and files outside of docs/, and GitHub's anchors.

A page names other files as GitHub resolves them, `../kernels/mix.py` or `docs/data.md`. On the site a page of
`PAGES` is a page, and any other file that is linked lies under `repository/`.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {"CONTRIBUTING.md": "contributing.md", "README.md": "index.md"}  # as `nav` of mkdocs.yml names them
LINK = re.compile(r"(?<=\]\()([^)#\s]+)")


def on_config(config: Any) -> Any:
    """Anchors of headings as on GitHub."""
    from pymdownx.slugs import slugify

    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    return config


def on_files(files: Any, *, config: Any) -> Any:
    """The pages that lie outside of docs/."""
    for name, page in PAGES.items():
        if files.get_file_from_path(page) is None:
            _add(files, config, page, ROOT / name)
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/, or come from outside, as the site has them."""
    source = Path(page.file.abs_src_path).resolve()

    def moved(match: re.Match[str]) -> str:
        target = (source.parent / match[1]).resolve()
        if "://" in match[1] or not target.is_file() or not target.is_relative_to(ROOT):
            return match[1]
        if target.is_relative_to(DOCS):
            place = target.relative_to(DOCS).as_posix()
        else:
            name = target.relative_to(ROOT).as_posix()
            place = PAGES.get(name, f"repository/{name}")
            if files.get_file_from_path(place) is None:
                _add(files, config, place, target)
        return posixpath.relpath(place, posixpath.dirname(page.file.src_uri))

    return LINK.sub(moved, markdown)


def _add(files: Any, config: Any, place: str, source: Path) -> None:
    from mkdocs.structure.files import File

    files.append(File.generated(config, place, abs_src_path=str(source)))
