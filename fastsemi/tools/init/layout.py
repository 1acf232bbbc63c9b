"""Where the images of a folder lie: those to train on, to evaluate on, and those without classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.common.urls import is_url, place
from fastsemi.loaders.index.formats import is_hidden, is_image_name
from fastsemi.loaders.index.scan import require_folder
from fastsemi.loaders.index.table import has_columns, is_table_name, read_table, require_labels
from fastsemi.loaders.sources.open import EVALUATION_FOLDERS, holds_archives, is_table, require_images

UNLABELLED_FOLDERS = ("unlabeled", "unlabelled")


@dataclass(frozen=True)
class Layout:
    """Folders and tables of images, as the section `data` names them."""

    root: Path
    train: str
    """Class folders, or images that a table names, below `root`; "." where `root` holds them itself."""
    val: str | None
    """Evaluation images below `root`, a folder or a table, None for none."""
    unlabelled: Path | None
    """Images without classes, None for none."""
    unused: tuple[str, ...] = ()
    """Further folders that look like evaluation images."""
    beside: int = 0
    """Images that lie in `root` itself, beside the folder `train`."""

    table: Path | None = None
    """Table of the labels of the images in `train`, which are then in no class folders; None for none."""
    said: tuple[str, ...] = ()
    """What to tell about tables that were found."""

    @property
    def name(self) -> str:
        """What the folder is called."""
        return os.path.basename(os.path.abspath(self.root)) or "images"


def find_layout(folder: Path, unlabelled: Path | None = None, labels: Path | None = None) -> Layout:
    """Recognise `FOLDER/train/CLASS/IMAGE` with an evaluation folder beside `train`, or `FOLDER/CLASS/IMAGE`.

    Or images in any folders and a table of labels: `FOLDER/TABLE`, `FOLDER/train/TABLE`. A folder of images
    without classes is looked for beside `train`; what lies beside FOLDER is not FOLDER's.

    Args:
        folder: What the user names; the folder `train` stands for the one above it.
        unlabelled: Images without classes, where the user names them.
        labels: File of labels, where the user names it.

    Raises:
        UserError: No such folder, class folders among folders for other uses, several tables, or a table
            whose labels are not the names of the class folders.
    """
    if is_url(folder):
        raise UserError(
            f"{place(folder)} is a URL, and init looks at folders of the disk; set data.root to it in a "
            "configuration that stands on a recipe of configs/practical"
        )
    require_folder(os.path.abspath(folder))
    if folder.name == "train":
        folder = folder.parent
    inside = (folder / "train").is_dir()
    train = folder / "train" if inside else folder
    table, said = _table(folder, train, labels)
    if table is None:
        _require_classes_alone(folder, inside)
    if unlabelled is not None:
        require_images(Path(), unlabelled)
    else:
        there = [folder / name for name in UNLABELLED_FOLDERS if inside and (folder / name).is_dir()]
        unlabelled = there[0] if there else None
    evaluation = _evaluation(folder, table) if inside or table is not None else []
    return Layout(
        folder,
        "train" if inside else ".",
        evaluation[0] if evaluation else None,
        unlabelled,
        tuple(evaluation[1:]),
        sum(is_image_name(path.name) and path.is_file() for path in folder.iterdir()) if inside else 0,
        table,
        said,
    )


def _require_classes_alone(folder: Path, inside: bool) -> None:
    for name in (*(() if inside else EVALUATION_FOLDERS), *UNLABELLED_FOLDERS):
        odd = folder / "train" / name if inside else folder / name
        if odd.is_dir():
            cure = f"move it into {folder}" if inside else f"move the classes into {folder / 'train'}"
            raise UserError(f"{odd} lies among the class folders and would count as a class; {cure}")


def _table(folder: Path, train: Path, labels: Path | None) -> tuple[Path | None, tuple[str, ...]]:
    """The table of labels, the user's or the one in the folder, and what to tell of it."""
    if labels is not None:
        if not labels.is_file():
            raise UserError(f"cannot read label index file {labels}: no such file; correct --labels")
        if is_table_name(labels) and not _folders(train) and not holds_archives(train):
            require_labels(labels)  # which says what it lacks: without class folders a list will not do
        return (labels if has_columns(labels) else None), ()
    if holds_archives(train):
        return None, ()
    found = [path for place in dict.fromkeys((folder, train)) for path in _tables(place)]
    if not found:
        others = [path for path in _visible(folder) if is_table(path)]
        if others and not _folders(train) and any(is_image_name(path.name) for path in train.iterdir()):
            require_labels(others[0])  # which says what it lacks
        return None, ()
    classes = {name for name in _folders(train) if name not in (*EVALUATION_FOLDERS, *UNLABELLED_FOLDERS)}
    named = " and ".join(map(str, found))
    training = [path for path in found if path.stem not in EVALUATION_FOLDERS]
    if len(classes) < 2:
        if len(training) != 1:
            raise UserError(f"{named} may each say which image has which label; name one with --labels")
        return training[0], (f"labels: found in {training[0]}",)
    given = {row.label for path in training for row in read_table(path).rows} - {""}
    if not given <= classes:
        odd = sorted(given - classes)[0]
        raise UserError(
            f"{train} has {len(classes)} folders and {named} labels such as {odd!r} that name none of them; "
            "take the labels with --labels, or move the table away to take the folders for classes"
        )
    return None, (f"not used: {named}, as the folders have the names of classes; --labels takes the table",)


def _tables(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if has_columns(path)]


def _folders(folder: Path) -> list[str]:
    return [path.name for path in _visible(folder) if path.is_dir()]


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def _evaluation(folder: Path, table: Path | None) -> list[str]:
    """Evaluation images below a folder, the likeliest first: rows of the table, folders, tables."""
    found = []
    if table is not None and (read := read_table(table)).columns.split is not None:
        if any(row.split in ("val", "test") for row in read.rows):
            found.append(below(table, folder))
    for name in EVALUATION_FOLDERS:
        place = folder / name
        if place.is_dir():
            tables = [] if _folders(place) else _tables(place)
            found.append(below(tables[0], folder) if len(tables) == 1 else name)
        found += [below(path, folder) for path in _tables(folder) if path.stem == name and path != table]
    return found


def below(path: Path, folder: Path) -> str:
    """A path as `data.root` of this folder needs it: relative where the folder holds it, else absolute."""
    whole, top = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return str(whole.relative_to(top)) if whole.is_relative_to(top) else str(whole)
