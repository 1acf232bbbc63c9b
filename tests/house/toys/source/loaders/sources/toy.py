"""A toy source: images stored without compression in ZIP files that end in .toy, a folder a class."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.archive_index import Found, build_archive_index
from fastsemi.loaders.index.header import stored_size
from fastsemi.loaders.sources.archive import ArchiveSource


class ToySource(ArchiveSource):
    """Members `<class>/<image>` of ZIP files, read at random where they lie."""

    @classmethod
    def open(
        cls,
        files: Sequence[str],
        *,
        has_classes: bool,
        max_pixels: int,
        cache_dir: Path | None = None,
        threads: int = 8,
        refresh: bool = False,
    ) -> ToySource:
        """Index the files, or reopen their index.

        Raises:
            UserError: A file that is no ZIP, or what `build_archive_index` raises.
        """
        index = build_archive_index(
            "toy",
            files,
            partial(_scan, max_pixels=max_pixels),
            has_classes=has_classes,
            max_pixels=max_pixels,
            cache_dir=cache_dir,
            threads=threads,
            refresh=refresh,
        )
        return cls(index)


def _scan(path: str, max_pixels: int) -> Found:
    found = Found()
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                if member.is_dir():
                    continue
                if member.compress_type != zipfile.ZIP_STORED:
                    raise UserError(f"{member.filename} in {path} is compressed; write it with `zip -0`")
                file.seek(member.header_offset + 26)  # where the lengths of name and extra field are
                name, extra = (int.from_bytes(file.read(2), "little") for _ in range(2))
                offset = member.header_offset + 30 + name + extra
                found.names.append(member.filename)
                found.offset.append(offset)
                found.length.append(member.file_size)
                found.sizes.append(stored_size(file.fileno(), offset, member.file_size, max_pixels))
                found.labels.append(member.filename.partition("/")[0])
    except (zipfile.BadZipFile, OSError) as error:
        raise UserError(f"{path} cannot be read as a ZIP file ({error}); write it again") from error
    return found
