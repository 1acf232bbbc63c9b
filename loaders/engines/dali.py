"""The `dali` engine: NVIDIA DALI reads, decodes once and cuts all views, on a GPU or on the CPU."""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch

from fastsemi.common.errors import BadImageError, UserError
from fastsemi.loaders.engines.base import Engine, Pending, Reading
from fastsemi.loaders.engines.dali_router import Router
from fastsemi.loaders.engines.reference import ReferenceEngine
from fastsemi.loaders.engines.settings import DaliOptions
from fastsemi.loaders.plan.types import PlannedBatch, ViewPlan
from fastsemi.loaders.sources.base import Source
from fastsemi.loaders.sources.folder import FolderSource

if TYPE_CHECKING:
    from fastsemi.loaders.engines.dali_pipeline import ViewPipeline

logger = logging.getLogger(__name__)


def available() -> str | None:
    """None where DALI can be imported, else why not and the cure, in one line."""
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        extra = "dali-cu12" if (torch.version.cuda or "13").startswith("12") else "dali-cu13"
        return f"DALI cannot be imported ({error}); pip install 'fastsemi[{extra}]'"
    return None


def version() -> str:
    """Of DALI, where it is installed."""
    import nvidia.dali

    return str(nvidia.dali.__version__)


@dataclass
class _Job:
    """A batch under way."""

    batch: PlannedBatch
    slot: torch.Tensor
    images: Future[list[bytes | None]]  # for each sample its name or bytes; None where Pillow decodes it
    done: Future[list[BadImageError | None]] = field(default_factory=Future)
    ready: torch.cuda.Event | None = None  # the slot's earlier use on the device is over
    rows: list[int] = field(default_factory=list)  # samples that DALI decodes
    pipeline: ViewPipeline | None = None


class DaliEngine(Engine):
    """DALI executes the plan.

    Whole JPEGs and PNGs (8 bits) go to DALI, and the pixels of a `.beton`; all else to Pillow, which decodes
    it or says why not. Where DALI fails on a batch, Pillow decodes that, and its broken files in future.

    Args:
        source: Where the bytes come from; of a folder DALI reads the files itself.
        image_size: Side of a view in pixels, S.
        threads: DALI's CPU threads.
        max_pixels: Larger images are refused.
        device: CUDA device, None for the CPU. With a device, slots may lie on it: views then never pass
            through the host.
        options: How DALI decodes.

    Raises:
        UserError: DALI is not installed, or it does not survive decoding windows on this GPU.
    """

    name = "dali"

    def __init__(
        self,
        source: Source,
        image_size: int,
        threads: int,
        max_pixels: int,
        device: int | None = None,
        options: DaliOptions | None = None,
    ):
        super().__init__(source, image_size, threads, max_pixels)
        reason = available()
        if reason is not None:
            raise UserError(reason)
        self.device, options = device, options or DaliOptions()
        if options.decode == "window" and device is not None:
            self._require_windows(device)
        if options.decode == "auto":
            options = replace(options, decode="window" if device is None else "whole")
        self.options = options
        self._reference = ReferenceEngine(source, image_size, 1, max_pixels)
        self._stream = torch.cuda.Stream(device) if device is not None else None
        self._pipelines: dict[int, ViewPipeline] = {}  # by number of views; used by the worker only
        self._router = Router(source, max_pixels)
        self._unfinished: set[Future[list[BadImageError | None]]] = set()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(self.readers, thread_name_prefix="fastsemi-dali-read")
        self._worker = threading.Thread(target=self._work, name="fastsemi-dali", daemon=True)
        self._worker.start()

    @staticmethod
    def _require_windows(device: int) -> None:
        from fastsemi.loaders.engines.dali_trial import failure  # few need it

        reason = failure(device)
        if reason is not None:
            raise UserError(
                f"DALI cannot decode windows on this GPU ({reason}); set loader.dali.decode to whole"
            )

    def submit(self, batch: PlannedBatch, slot: torch.Tensor) -> Pending:
        """Queue the batch. `slot` may lie on the CPU or on the engine's device."""
        job = _Job(batch, slot, self._pool.submit(self._router.images, batch))
        if slot.is_cuda:
            job.ready = torch.cuda.current_stream(slot.device).record_event()
        self._unfinished.add(job.done)
        job.done.add_done_callback(self._unfinished.discard)
        self._jobs.put(job)
        return job.done

    def _work(self) -> None:
        """Keep DALI as full as its depth allows; hand out batches in their order."""
        flying: deque[_Job] = deque()
        while not self._stop.is_set():
            try:
                job = self._jobs.get(block=not flying)
            except queue.Empty:
                job = None
            if self._stop.is_set():
                break
            if job is not None:
                flying.append(job)
            try:
                if job is not None:
                    self._launch(job)
                if job is None or len(flying) >= self.options.depth:
                    self._land(flying[0])
                    flying.popleft()
            except Exception as error:  # DALI raises many kinds; the pipeline is lost with all its batches
                logger.debug("DALI failed, its batches run again one by one: %s", error)
                self._pipelines.clear()
                while flying and not self._stop.is_set():
                    self._alone(flying.popleft())
        self._pipelines.clear()

    def _launch(self, job: _Job) -> None:
        images = job.images.result()
        job.rows = [b for b, image in enumerate(images) if image is not None]
        if not job.rows:
            return
        given = [image for image in images if image is not None]
        windows, flips = job.batch.windows[:, job.rows], job.batch.flips[:, job.rows]
        job.pipeline = self._pipeline(len(windows), len(given))
        job.pipeline.launch(given, windows, flips)

    def _create(self, views: int, capacity: int) -> ViewPipeline:
        from fastsemi.loaders.engines.dali_pipeline import ViewPipeline

        return ViewPipeline(
            views,
            capacity,
            self.image_size,
            self.threads,
            self.device,
            isinstance(self.source, FolderSource),
            self.options,
        )

    def _pipeline(self, views: int, batch: int) -> ViewPipeline:
        known = self._pipelines.get(views)
        if known is None or known.capacity < batch:
            known = self._create(views, max(batch, known.capacity if known else 0))
            self._pipelines[views] = known  # batches under way keep the smaller one alive
        return known

    def _land(self, job: _Job) -> None:
        rest = set(range(len(job.batch.ids))) - set(job.rows)
        if job.pipeline is not None:
            views = job.pipeline.land()
            self._place(job, job.rows, (torch.from_dlpack(view) for view in views))
            job.pipeline = None
        if rest:
            self._pool.submit(self._finish, job, sorted(rest))
        else:
            job.done.set_result([None] * len(job.batch.ids))

    def _place(self, job: _Job, rows: list[int], views: Iterable[torch.Tensor]) -> None:
        """Some rows into the slot. On a device the engine's stream copies; this thread waits."""
        whole = len(rows) == len(job.batch.ids)
        with torch.cuda.stream(self._stream):
            if job.ready is not None and self._stream is not None:
                self._stream.wait_event(job.ready)
            for v, pixels in enumerate(views):
                if whole:
                    job.slot[v].copy_(pixels, non_blocking=True)
                else:
                    job.slot[v, rows] = pixels.to(job.slot.device, non_blocking=True)
        if self._stream is not None:
            self._stream.synchronize()

    def _finish(self, job: _Job, rows: list[int]) -> list[BadImageError | None]:
        """Decode some samples with Pillow, then hand out the batch."""
        errors: list[BadImageError | None] = [None] * len(job.batch.ids)
        try:
            pixels = torch.empty(
                (len(job.slot), len(rows), *job.slot.shape[2:]),
                dtype=torch.uint8,
                pin_memory=job.slot.is_cuda,
            )
            for n, b in enumerate(rows):
                views = tuple(ViewPlan(v.window[b : b + 1], v.flip[b : b + 1]) for v in job.batch.views)
                one = PlannedBatch(job.batch.ids[b : b + 1], job.batch.labels[b : b + 1], views)
                (errors[b],) = self._reference.submit(one, pixels[:, n : n + 1]).result(0)
            self._place(job, rows, pixels)
            job.done.set_result(errors)
        except Exception as error:
            job.done.set_exception(error)
        return errors

    def _alone(self, job: _Job) -> None:
        """Run a batch again with nothing else under way, so that a failure is its own."""
        job.pipeline = None
        try:
            self._launch(job)
            self._land(job)
            return
        except Exception as error:
            self._pipelines.clear()
            job.pipeline = None
            reason = str(error)
        rows = job.rows
        errors = self._finish(job, list(range(len(job.batch.ids))))
        broken = [row for row in rows if errors[row] is not None]
        if not broken:
            logger.warning("DALI cannot decode a batch that Pillow can, which is slow: %s", reason)
        self._router.refuse(job.batch.ids[broken or rows])

    def reading(self, prefetch: int) -> Reading:
        """DALI's own threads read the files of a folder; the bytes of other sources come to it by readers."""
        if isinstance(self.source, FolderSource):
            return Reading(self.threads)
        return Reading(min(self.readers, prefetch), apart=True)

    def close(self) -> None:
        """Stop all threads and let DALI go. Batches under way are dropped."""
        self._stop.set()
        self._jobs.put(None)
        self._worker.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for done in list(self._unfinished):
            done.cancel()
