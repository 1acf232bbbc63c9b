"""The order of the floors: reads every import and finds the arrows that point up, and the circles.

    python tests/house/floors.py

finds what is wrong, and writes the drawing of the floors into docs/architecture.md.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("floors.txt")
PAGE = "docs/architecture.md"
TOPS = ("fastsemi", "loaders", "kernels", "benchmarks")
LINKED = ("loaders", "kernels")  # imported through the links fastsemi/loaders and fastsemi/kernels
COMPILED = "fastsemi._native"  # from kernels/csrc; it imports nothing
BEGIN, END = "<!-- floors: python tests/house/floors.py writes this -->\n", "<!-- end -->"


@dataclass(frozen=True)
class Place:
    """Where a room stands."""

    floor: int
    line: int  # of the table
    step: int  # in the line, from the left

    def may_import(self, other: Place) -> bool:
        """Whether the other room stands below."""
        if self.line == other.line:
            return other.step < self.step
        return other.floor < self.floor


@dataclass(frozen=True)
class Import:
    """That a file imports a module."""

    file: str  # path from the root
    line: int
    module: str  # dotted name of what is imported, a file of the tree or a package
    room: str  # where that stands

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module} of {self.room}"


def places(table: Path = TABLE) -> dict[str, Place]:
    """The rooms of the table, ground first."""
    found: dict[str, Place] = {}
    for number, line in enumerate(table.read_text().splitlines()):
        if not line or line.startswith("#"):
            continue
        floor, rooms = line.split(maxsplit=1)
        for step, beside in enumerate(rooms.split("<")):
            for room in beside.split(","):
                found[room.strip()] = Place(int(floor), number, step)
    return found


def files(root: Path) -> dict[str, Path]:
    """All Python files of the rooms by dotted name; what the links lead to is taken once, where it lies."""
    found = {}
    for top in TOPS:
        for path in sorted((root / top).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            if parts[0] == "fastsemi" and parts[1:2] and parts[1] in LINKED:
                continue
            if parts[-1] == "__init__":
                parts = parts[:-1]
            found[".".join(("fastsemi", *parts) if top in LINKED else parts)] = path
    return found


def room_of(path: Path, root: Path, rooms: Mapping[str, Place]) -> str:
    """The room of a file: its folder, unless the table names the file itself."""
    relative = path.relative_to(root)
    return str(relative) if str(relative) in rooms else str(relative.parent)


@functools.cache
def named(text: str, module: str, is_package: bool) -> list[tuple[int, str]]:
    """The dotted names that a file's text imports, with their lines, wherever in it they stand."""
    found: list[tuple[int, str]] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parts = module.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            name = node.args[0]
            if isinstance(name, ast.JoinedStr):  # f"fastsemi.commands.{name}"
                name = name.values[0]
            if called in ("import_module", "__import__") and isinstance(name, ast.Constant):
                found.append((node.lineno, str(name.value).rstrip(".")))
    return found


def imports(root: Path, rooms: Mapping[str, Place]) -> list[Import]:
    """Every import of a file of the tree by another, lazy ones and those for type checkers included."""
    known, found = files(root), []
    for module, path in known.items():
        for line, name in named(path.read_text(), module, path.name == "__init__.py"):
            if name.split(".")[0] not in (*TOPS, "tests") or name.startswith(COMPILED):
                continue
            target = name
            while target not in known and "." in target:
                target = target.rpartition(".")[0]  # a name inside of the module
            if target not in known:
                target = name  # of no file here
            if target != module:
                room = room_of(known[target], root, rooms) if target in known else target
                found.append(Import(str(path.relative_to(root)), line, target, room))
    return list(dict.fromkeys(found))


def upward(root: Path, table: Path = TABLE) -> list[Import]:
    """The imports from rooms that do not stand below, or are in no table."""
    rooms, found = places(table), []
    for each in imports(root, rooms):
        own = room_of(root / each.file, root, rooms)
        if own == each.room:
            continue
        if own not in rooms or each.room not in rooms or not rooms[own].may_import(rooms[each.room]):
            found.append(each)
    return found


def circles(root: Path, table: Path = TABLE, *, of_rooms: bool) -> list[list[str]]:
    """Rooms, or files, that import one another, round about."""
    rooms, known = places(table), files(root)
    arrows: dict[str, set[str]] = {}
    for each in imports(root, rooms):
        target = known.get(each.module)
        if of_rooms:
            start, end = room_of(root / each.file, root, rooms), each.room
        else:
            start, end = each.file, str(target.relative_to(root)) if target else each.module
        if start != end:
            arrows.setdefault(start, set()).add(end)
    reached = {name: _reach(name, arrows) for name in arrows}
    found = {
        tuple(sorted(other for other in reached[name] if name in reached.get(other, ())))
        for name in arrows
        if name in reached[name]
    }
    return sorted(map(list, found))


def _reach(name: str, arrows: Mapping[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = [name]
    while todo:
        for other in arrows.get(todo.pop(), ()):
            if other not in seen:
                seen.add(other)
                todo.append(other)
    return seen


def purpose(room: str, root: Path) -> str:
    """What a room is for: the docstring of its `__init__.py`, or of the file."""
    path = root / room if room.endswith(".py") else root / room / "__init__.py"
    return ast.get_docstring(ast.parse(path.read_text())) or ""


def drawing(root: Path, table: Path = TABLE) -> str:
    """The floors as text, the roof first: number, room, and what its docstring says."""
    rooms = places(table)
    width = max(map(len, rooms)) + 2
    lines, floor = ["```text"], None
    for room in sorted(rooms, key=lambda r: (-rooms[r].floor, rooms[r].line, -rooms[r].step)):
        if rooms[room].floor != floor and floor is not None:
            lines.append("-" * 100)
        head = str(rooms[room].floor) if rooms[room].floor != floor else ""
        floor = rooms[room].floor
        lines.append(f"{head:>2}  {room:{width}}{purpose(room, root)}")
    return "\n".join([*lines, "```", ""])


def main() -> int:
    """Write the drawing and say what is wrong."""
    page = ROOT / PAGE
    text = page.read_text()
    before, _, rest = text.partition(BEGIN)
    page.write_text(before + BEGIN + drawing(ROOT) + END + rest.partition(END)[2])
    wrong = [str(each) for each in upward(ROOT)]
    wrong += [f"circle: {' '.join(c)}" for kind in (True, False) for c in circles(ROOT, of_rooms=kind)]
    print("\n".join(wrong) or "every import points down")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
