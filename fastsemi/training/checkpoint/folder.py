"""Checkpoints of an unfinished stage: written by all processes in the background, read by any number of them.

A checkpoint is a folder `<stage>-<step>`: tensors in the files of torch.distributed.checkpoint, all else in
`info.pt`. It is written under a temporary name and renamed when it is whole, so what a crash leaves behind is
always the last whole one. Checksums of all its files are verified before it is read; where one was damaged
since, the checkpoint before it is taken.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import shutil
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from fastsemi.common.checksums import damage, write_checksums
from fastsemi.common.errors import UserError
from fastsemi.common.files import UNREADABLE, sync_folder
from fastsemi.parallel import processes
from fastsemi.training.checkpoint import file as checkpoint_file

_INFO = "info.pt"

_log = logging.getLogger(__name__)
_sound: dict[Path, object] = {}  # verified, or written by this process, and the state of the files then

# Said also by the thread that writes, in every run of a single process.
warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")

# All that the description of a checkpoint consists of. Python's pickle would run whatever a file names.
_SAFE = {
    ("collections", "OrderedDict"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),
    ("torch", "Size"),
    ("torch", "device"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "Metadata",
            "MetadataIndex",
            "StorageMeta",
            "TensorStorageMetadata",
            "ChunkStorageMetadata",
            "TensorProperties",
            "_MEM_FORMAT_ENCODING",
        )
    ),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        found = getattr(torch, name, None) if module == "torch" else None
        if (module, name) in _SAFE or isinstance(found, torch.dtype | torch.layout):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no checkpoint holds")


class _Reader(dcp.FileSystemReader):
    """Reads tensors and runs no code from the files."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with self.fs.create_stream(self._get_metadata_path(), "rb") as file:
            metadata = _Unpickler(cast("IO[bytes]", file)).load()
        if not isinstance(metadata, Metadata):
            raise pickle.UnpicklingError("its .metadata describes no checkpoint")
        odd = [k for k, v in metadata.state_dict_metadata.items() if not isinstance(v, TensorStorageMetadata)]
        if odd:
            raise pickle.UnpicklingError(f"{odd[0]} is no tensor")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


def read_info(folder: Path) -> dict[str, Any]:
    """All of a checkpoint but its tensors.

    Raises:
        UserError: The file is missing or damaged.
    """
    return checkpoint_file.load(folder / _INFO)


def shapes(folder: Path) -> dict[str, torch.Size]:
    """The shape of each tensor of a checkpoint, by name.

    Raises:
        UserError: The description is missing, damaged or holds code.
    """
    try:
        content = _Reader(folder).read_metadata().state_dict_metadata
    except UNREADABLE as error:
        raise _unreadable(folder, error) from None
    return {name: cast(TensorStorageMetadata, tensor).size for name, tensor in content.items()}


def read_tensors(folder: Path, into: dict[str, Tensor]) -> None:
    """Fill tensors, which may be shards, with those of the same names; all processes must ask for it.

    Raises:
        UserError: Tensors have other names or shapes, or files are damaged.
    """
    there = shapes(folder)
    for name, tensor in into.items():
        if name not in there:
            raise UserError(f"{folder} has no {name}; it does not fit this configuration; {_CURE}")
        if there[name] != tensor.shape:
            raise UserError(
                f"{name} is {tuple(there[name])} in {folder} and {tuple(tensor.shape)} in this "
                f"configuration; {_CURE}"
            )
    try:
        dcp.load(into, storage_reader=_Reader(folder), process_group=processes.saving_group())
    except (*UNREADABLE, CheckpointException) as error:
        raise _unreadable(folder, error) from None


_CURE = "give another --output, or delete it to start the stage again"


def _unreadable(folder: Path, error: BaseException) -> UserError:
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UserError(f"cannot read checkpoint {folder}: {reason}; delete it to start the stage again")


def _state(folder: Path) -> object:
    """What changes when a file of a folder is written to."""
    return {entry.name: (entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(folder)}


class Checkpoints:
    """The checkpoints of a stage: the last ones, and the next while it is written.

    Args:
        folder: Of the run's checkpoints.
        stage: Name of the stage.
        keep: How many stay, at least 1.
        saved: Called in one process, in the thread that writes, when a checkpoint is whole.
    """

    def __init__(self, folder: Path, stage: str, keep: int = 1, saved: Callable[[], None] = lambda: None):
        self._folder, self._stage, self._keep, self._told = folder, stage, keep, saved
        self._saved: Future[None] | None = None
        self._settled = threading.Event()
        self._error: BaseException | None = None

    def _all(self) -> list[Path]:
        """Whole checkpoints, the oldest first."""
        found = self._folder.glob(f"{self._stage}-*") if self._folder.is_dir() else ()
        whole = [path for path in found if re.fullmatch(rf"{self._stage}-\d{{9}}", path.name)]
        return sorted(whole)

    def latest(self) -> Path | None:
        """The newest checkpoint whose files are what was written; None where there is no checkpoint.

        Raises:
            UserError: There are some, all damaged.
        """
        found, error = None, None
        if processes.is_main():
            try:
                found = self._newest_sound()
            except UserError as refused:
                error = refused
        found, error = processes.from_main((found, error))
        if error:
            raise error
        return found

    def _newest_sound(self) -> Path | None:
        wrong: list[str] = []
        for path in reversed(self._all()):
            state = _state(path)
            reason = None if _sound.get(path) == state else damage(path, [_INFO, ".metadata"])
            if reason is None:
                _sound[path] = state
                for text in wrong:
                    _log.warning("%s; %s, the one before it, is taken", text, path)
                return path
            wrong.append(f"checkpoint {path} is damaged: {reason}")
        if wrong:
            raise UserError(f"{wrong[0]}; no other is left, delete it to start the stage again")
        return None

    def save(self, step: int, info: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Copy a checkpoint to the CPU and write it in the background; all processes must take part.

        Args:
            step: Steps done.
            info: Plain values, the same in all processes.
            tensors: By name; they may be shards.

        Raises:
            UserError: This or the last one could not be written.
        """
        self.finish()
        final = self._folder / f"{self._stage}-{step:09d}"
        temporary = self._folder / f".{final.name}.tmp"
        if processes.is_main():
            for leftover in self._folder.glob(f".{self._stage}-*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
            checkpoint_file.save(info, temporary / _INFO)
        processes.barrier()
        self._settled.clear()
        writer = dcp.FileSystemWriter(temporary)
        saved = dcp.async_save(tensors, storage_writer=writer, process_group=processes.saving_group())
        self._saved = cast("Future[None]", saved)
        self._saved.add_done_callback(lambda future: self._settle(future, temporary, final))

    def _settle(self, saved: Future[None], temporary: Path, final: Path) -> None:
        """Runs in the thread that wrote: make the checkpoint the newest one."""
        try:
            saved.result()
            if processes.is_main():
                if final.exists() and _sound.get(final) == _state(final):  # of the same step, so the same
                    shutil.rmtree(temporary)
                else:
                    shutil.rmtree(final, ignore_errors=True)  # damaged
                    write_checksums(temporary)
                    sync_folder(temporary)
                    temporary.rename(final)
                    sync_folder(self._folder)
                    _sound[final] = _state(final)
                older = [path for path in self._all() if path.name < final.name]
                for old in older[: max(0, len(older) + 1 - self._keep)]:
                    shutil.rmtree(old, ignore_errors=True)
                self._told()
        except BaseException as error:  # raised by `finish`
            self._error = error
        finally:
            self._settled.set()

    def finish(self) -> None:
        """Wait until what is being written is written.

        Raises:
            UserError: It could not be.
        """
        if self._saved is None:
            return
        self._settled.wait()
        self._saved, error, self._error = None, self._error, None
        if isinstance(error, CheckpointException) and error.failures:
            error = next(iter(error.failures.values()))[0]
        if isinstance(error, OSError | RuntimeError):
            raise UserError(
                f"cannot write checkpoints to {self._folder}: {error}; free disk space or change --output"
            ) from error
        if error:
            raise error
