"""Small edits of Python files by what they mean, not by how they are laid out."""

from __future__ import annotations

import ast
import textwrap
from pathlib import Path


def _find(tree: ast.AST, name: str) -> ast.AST:
    """The definition or assignment of a name, at any depth."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            return node
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(t, ast.Name) and t.id == name for t in targets):
                return node
    raise LookupError(name)


def _insert(path: Path, line: int, column: int, text: str) -> None:
    """Put text before a place, line from 1, column in bytes from 0 as `ast` counts them."""
    lines = path.read_bytes().splitlines(keepends=True)
    old = lines[line - 1]
    lines[line - 1] = old[:column] + text.encode() + old[column:]
    path.write_bytes(b"".join(lines))


def add_import(path: Path, line: str) -> None:
    """Add an import after the last one at the top of the file."""
    body = ast.parse(path.read_text()).body
    last = max(node.end_lineno for node in body if isinstance(node, ast.Import | ast.ImportFrom))
    _insert(path, last + 1, 0, f"{line}\n")


def add_entry(path: Path, name: str, entry: str, *, after: str | None = None) -> None:
    """Add an entry to a dictionary, tuple, list or Literal that is not empty, in front or after another."""
    value = _find(ast.parse(path.read_text()), name).value
    inner = value.slice if isinstance(value, ast.Subscript) else value
    entries = inner.keys if isinstance(inner, ast.Dict) else inner.elts
    if after is None:
        _insert(path, entries[0].lineno, entries[0].col_offset, f"{entry}, ")
        return
    node = next(e for e in entries if isinstance(e, ast.Constant) and e.value == after)
    _insert(path, node.end_lineno, node.end_col_offset, f", {entry}")


def add_to_class(path: Path, name: str, text: str) -> None:
    """Add a line behind the fields of a class, before its first method."""
    body = _find(ast.parse(path.read_text()), name).body
    last = [n for n in body if not isinstance(n, ast.FunctionDef)][-1]
    _insert(path, last.end_lineno + 1, 0, textwrap.indent(f"{text}\n", " " * last.col_offset))


def add_to_function(path: Path, name: str, text: str, *, before: type[ast.stmt] | None = None) -> None:
    """Add statements to a function, before its first statement of a kind, or at its start."""
    body = _find(ast.parse(path.read_text()), name).body
    rest = body[1:] if ast.get_docstring(_find(ast.parse(path.read_text()), name)) else body
    node = next(n for n in rest if before is None or isinstance(n, before))
    _insert(path, node.lineno, 0, textwrap.indent(f"{text}\n", " " * node.col_offset))


def add_case(path: Path, function: str, pattern: str, result: str) -> None:
    """Add a case to the `match` of a function."""
    match = next(
        n for n in ast.walk(_find(ast.parse(path.read_text()), function)) if isinstance(n, ast.Match)
    )
    indent = " " * (match.col_offset + 4)
    _insert(path, match.cases[0].pattern.lineno, 0, f"{indent}case {pattern}:\n{indent}    return {result}\n")
