"""Where the images of a folder lie: those to train on, to evaluate on, and those without classes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from fastsemi.common.errors import UserError
from fastsemi.loaders.index.formats import is_image_name
from fastsemi.loaders.index.scan import require_folder
from fastsemi.loaders.sources.open import EVALUATION_FOLDERS, require_images

UNLABELLED_FOLDERS = ("unlabeled", "unlabelled")


@dataclass(frozen=True)
class Layout:
    """Folders of images, as the section `data` names them."""

    root: Path
    train: str
    """Class folders, below `root`; "." where `root` holds them itself."""
    val: str | None
    """Evaluation images below `root`, None for none."""
    unlabelled: Path | None
    """Images without classes, None for none."""
    unused: tuple[str, ...] = ()
    """Further folders that look like evaluation images."""
    beside: int = 0
    """Images that lie in `root` itself, beside the folder `train`."""

    @property
    def name(self) -> str:
        """What the folder is called."""
        return os.path.basename(os.path.abspath(self.root)) or "images"


def find_layout(folder: Path, unlabelled: Path | None = None) -> Layout:
    """Recognise `FOLDER/train/CLASS/IMAGE` with an evaluation folder beside `train`, or `FOLDER/CLASS/IMAGE`.

    A folder of images without classes is looked for beside `train`; what lies beside FOLDER is not FOLDER's.

    Args:
        folder: What the user names; the folder `train` stands for the one above it.
        unlabelled: Images without classes, where the user names them.

    Raises:
        UserError: No such folder, or class folders among folders for other uses.
    """
    require_folder(os.path.abspath(folder))
    if folder.name == "train":
        folder = folder.parent
    inside = (folder / "train").is_dir()
    for name in (*(() if inside else EVALUATION_FOLDERS), *UNLABELLED_FOLDERS):
        odd = folder / "train" / name if inside else folder / name
        if odd.is_dir():
            cure = f"move it into {folder}" if inside else f"move the classes into {folder / 'train'}"
            raise UserError(f"{odd} lies among the class folders and would count as a class; {cure}")
    if unlabelled is not None:
        require_images(Path(), unlabelled)
    else:
        there = [folder / name for name in UNLABELLED_FOLDERS if inside and (folder / name).is_dir()]
        unlabelled = there[0] if there else None
    evaluation = [name for name in EVALUATION_FOLDERS if inside and (folder / name).is_dir()]
    return Layout(
        folder,
        "train" if inside else ".",
        evaluation[0] if evaluation else None,
        unlabelled,
        tuple(evaluation[1:]),
        sum(is_image_name(path.name) and path.is_file() for path in folder.iterdir()) if inside else 0,
    )
