"""The C++ operator of the `native` engine: encoded images and planned windows in, views out.

A thin wrapper of `fastsemi._native` (sources in `kernels/csrc`), which decodes JPEGs (`kernels/csrc/jpeg`).
Everything else (PNG, WebP, GIF, BMP, 16 bits) is decoded with Pillow and resized by the same operator.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.common.spans import record
from fastsemi.loaders.engines.jpeg_index import JpegIndex
from fastsemi.loaders.engines.reference import check_size, decode_rgb
from fastsemi.loaders.index.regular import open_regular

JPEG_MAGIC = b"\xff\xd8\xff"
CURE = (
    "install a C++ compiler and libjpeg-turbo's headers (Debian: apt install g++ libjpeg-dev; conda: "
    "conda install -c conda-forge cxx-compiler libjpeg-turbo), then run "
    "pip install --no-cache-dir --force-reinstall --no-deps fastsemi"
)

Encoded = bytes | bytearray | memoryview


def available() -> str | None:
    """None where the operator can be used, else why not and the cure, in one line."""
    try:
        import fastsemi._native  # noqa: F401
    except ModuleNotFoundError:
        return f"the native operator was not built; {CURE}"
    except ImportError as error:
        return f"the native operator cannot be loaded ({error}); {CURE}"
    return None


@dataclass
class Ticket:
    """A batch on its way. It keeps alive what the operator's threads read and write."""

    native: int
    encoded: Sequence[Encoded] | None
    paths: Sequence[bytes] | None
    windows: NDArray[np.int32]  # [V, B, 4]
    flips: NDArray[np.bool_]  # [V, B]
    out: NDArray[np.uint8]  # [V, B, S, S, 3]
    sizes: NDArray[np.int32]  # [B, 2]
    max_pixels: int
    outcomes: list[tuple[int, str]] | None = None  # of the native operator, once it is done
    others: dict[int, Future[str | None]] = field(default_factory=dict)  # images Pillow decodes


class Operator:
    """Decodes and resizes batches in its own threads, in the order they were submitted.

    Each view is the window, resized to S x S like Pillow's `crop(window).resize((S, S), BICUBIC)`, then
    flipped where asked. The bytes of `out` do not depend on the number of threads or the CPU.

    Args:
        threads: Threads of the operator.
        kernels: One of `fastsemi._native.available_kernels()`, by default the fastest.
        index: Memory of where parts of the JPEGs begin, which is filled; batches then need `ids`.

    Raises:
        UserError: The operator was not built, or `threads` is less than 1.
    """

    def __init__(self, threads: int, kernels: str = "", index: JpegIndex | None = None):
        reason = available()
        if reason is not None:
            raise UserError(reason)
        if threads < 1:
            raise UserError(f"loader.threads is {threads}; use at least 1")
        from fastsemi import _native

        memory = {} if index is None else {"words": index.words, "starts": index.starts}
        self._native = _native.Operator(threads, kernels, **memory)
        self._threads, self._process = threads, os.getpid()
        self._pillow: ThreadPoolExecutor | None = None

    def submit(
        self,
        encoded: Sequence[Encoded],
        windows: NDArray[np.int32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        max_pixels: int,
        sizes: NDArray[np.int32],
        ids: NDArray[np.int64] | None = None,
    ) -> Ticket:
        """Start on a batch of B images with V views each; any number of batches may be on their way.

        Args:
            encoded: The B files.
            windows: [V, B, 4] left, top, width, height in source pixels.
            flips: [V, B] mirror the view horizontally.
            out: [V, B, S, S, 3], C-contiguous; not to be read before `wait`.
            max_pixels: Larger images are refused.
            sizes: [B, 2] expected width and height; another size is an error, 0 allows any.
            ids: [B] which images of the index they are, where there is one.

        Raises:
            ValueError: Shapes do not fit together.
        """
        ticket = self._submit(list(encoded), None, windows, flips, out, max_pixels, sizes, ids)
        for b, data in enumerate(encoded):
            if bytes(data[:3]) != JPEG_MAGIC:
                ticket.others[b] = self._executor().submit(self._decode, ticket, b)
        return ticket

    def submit_paths(
        self,
        paths: Sequence[bytes],
        windows: NDArray[np.int32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        max_pixels: int,
        sizes: NDArray[np.int32],
        ids: NDArray[np.int64] | None = None,
    ) -> Ticket:
        """As `submit`, with file names: each file is read by the thread that decodes it."""
        return self._submit(None, list(paths), windows, flips, out, max_pixels, sizes, ids)

    def submit_pixels(
        self,
        file: int,
        offsets: NDArray[np.int64],
        windows: NDArray[np.int32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        max_pixels: int,
        sizes: NDArray[np.int32],
    ) -> Ticket:
        """As `submit`, with images that are stored as pixels: only the rows that a window needs are read.

        Args:
            file: Descriptor of an open file, not to be closed before `wait`.
            offsets: [B] where each image begins, `sizes` pixels of 3 bytes, row by row.
            windows: As in `submit`; so are the others.
        """
        self._check(out)
        number = self._native.submit_pixels(file, offsets, windows, flips, out, max_pixels, sizes)
        return Ticket(number, None, None, windows, flips, out, sizes, max_pixels)

    def _check(self, out: NDArray[np.uint8]) -> None:
        if os.getpid() != self._process:
            raise RuntimeError("the operator was created before a fork; create one in each process")
        if out.dtype != np.uint8 or not out.flags.c_contiguous:
            raise ValueError("out must be C-contiguous uint8")

    def _submit(
        self,
        encoded: list[Encoded] | None,
        paths: list[bytes] | None,
        windows: NDArray[np.int32],
        flips: NDArray[np.bool_],
        out: NDArray[np.uint8],
        max_pixels: int,
        sizes: NDArray[np.int32],
        ids: NDArray[np.int64] | None,
    ) -> Ticket:
        self._check(out)
        of = np.zeros(0, np.int64) if ids is None else ids
        number = self._native.submit(
            encoded if paths is None else paths, paths is not None, windows, flips, out, max_pixels, sizes, of
        )
        return Ticket(number, encoded, paths, windows, flips, out, sizes, max_pixels)

    def wait(self, ticket: Ticket, timeout_s: float) -> list[str | None]:
        """Wait until `out` is filled.

        Returns:
            For each image None, or why its views are missing (their pixels are then undefined).

        Raises:
            TimeoutError: Not done after `timeout_s` seconds; the ticket can be waited for again.
        """
        deadline = time.monotonic() + timeout_s
        if ticket.outcomes is None:
            ticket.outcomes = self._native.wait(ticket.native, timeout_s)
        if ticket.outcomes is None:
            raise TimeoutError(f"images were not decoded in {timeout_s:g} s")
        for b, (code, _) in enumerate(ticket.outcomes):
            if code == 1 and b not in ticket.others:
                ticket.others[b] = self._executor().submit(self._decode, ticket, b)
        errors = [message if code == 2 else None for code, message in ticket.outcomes]
        for b, future in ticket.others.items():
            errors[b] = future.result(max(0.0, deadline - time.monotonic()))
        return errors

    def resize(
        self,
        pixels: NDArray[np.uint8],
        windows: NDArray[np.int32],
        flips: NDArray[np.bool_],
        out: Sequence[NDArray[np.uint8]],
    ) -> None:
        """Cut and resize views of decoded pixels, in the calling thread and without the GIL.

        Args:
            pixels: [H, W, 3].
            windows: [V, 4] left, top, width, height.
            flips: [V].
            out: V arrays of [S, S, 3].

        Raises:
            ValueError: Shapes do not fit together, or a window lies outside.
        """
        self._native.resize(pixels, windows, flips, list(out))

    @property
    def kernels(self) -> str:
        """Name of the kernels that it runs."""
        return str(self._native.kernels)

    def times(self) -> dict[str, float]:
        """Seconds that the operator's threads have spent so far on JPEGs, by stage, summed over threads."""
        return dict(zip(("read", "decode", "resize"), self._native.times(), strict=True))

    def _decode(self, ticket: Ticket, b: int) -> str | None:
        """An image that is no JPEG."""
        try:
            if ticket.paths is not None:
                with open_regular(ticket.paths[b]) as file:
                    data = file.read()
            else:
                assert ticket.encoded is not None
                data = bytes(ticket.encoded[b])
            with record("decode"):
                image = decode_rgb(data, "", ticket.max_pixels)
            if ticket.sizes[b].any():
                check_size(image.size, (int(ticket.sizes[b, 0]), int(ticket.sizes[b, 1])), "")
            views = [ticket.out[v, b] for v in range(len(ticket.windows))]
            with record("resize"):
                self.resize(np.asarray(image), ticket.windows[:, b], ticket.flips[:, b], views)
        except BadImageError as error:
            return error.reason
        except (OSError, ValueError) as error:
            return str(error)
        return None

    def _executor(self) -> ThreadPoolExecutor:
        if self._pillow is None:
            self._pillow = ThreadPoolExecutor(self._threads, thread_name_prefix="fastsemi-pillow")
        return self._pillow

    def close(self) -> None:
        """Drop images not begun and end all threads. Tickets that were not waited for are lost."""
        self._native.close()
        if self._pillow is not None:
            self._pillow.shutdown(wait=True, cancel_futures=True)
            self._pillow = None
