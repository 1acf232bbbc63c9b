"""Ways in which a file is no longer what was written."""

from collections.abc import Callable, Iterator
from pathlib import Path


def flip(share: float) -> Callable[[Path], None]:
    """One bit, at a share of the file's length."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(share * len(content)), len(content) - 1)] ^= 0x10
        path.write_bytes(content)

    return damage


def zero(path: Path) -> None:
    """A block of zeros, as after a power cut."""
    content = path.read_bytes()
    start = len(content) // 3
    block = min(4096, len(content) - start)
    path.write_bytes(content[:start] + bytes(block) + content[start + block :])


WAYS: dict[str, Callable[[Path], None]] = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path: path.write_bytes(b""),
    "zeroed": zero,
    "deleted": lambda path: path.unlink(),
    **{f"flipped at {share:.0%}": flip(share) for share in (0.01, 0.25, 0.5, 0.75, 0.99)},
}


def each(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Every file below a folder, damaged in every way: its name, the way, what was in it. Then mended."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        for way, damage in WAYS.items():
            damage(path)
            if not path.exists() or path.read_bytes() != content:
                yield str(path.relative_to(folder)), way, content
            path.write_bytes(content)
