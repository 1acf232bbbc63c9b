"""Stock DALI as a peer: its own operators, without fastsemi's plan."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.loading.comparison import AREA, FILL, JITTER, RATIO, AbsentError, MeasuredLoader, Setup

DALI_AHEAD = 2  # batches that DALI works on ahead, its default


class DaliPeer:
    """DALI's own operators; runs are scheduled by hand, so that nothing is left running after a pass."""

    def __init__(self, setup: Setup, device_id: int | None, two_decodes: bool):
        self._batches, self._batch = len(setup.files) // setup.batch, setup.batch
        self._gpu = device_id is not None
        self._pipeline = _dali_pipeline(setup, device_id, two_decodes)
        self._pipeline.build()

    def run_pass(self, times: int = 1) -> int:
        """As many batches as the files fill."""
        batches = times * self._batches
        count, ahead = 0, min(DALI_AHEAD, batches)
        for _ in range(ahead):
            self._pipeline.schedule_run()
        for done in range(batches):
            weak, strong = self._pipeline.share_outputs()
            if not self._gpu:  # into PyTorch's memory, as its own iterator does; DALI reuses its buffers
                weak, strong = (torch.from_numpy(view.as_array()) for view in (weak, strong))
            count += len(weak)
            self._pipeline.release_outputs()
            if done + ahead < batches:
                self._pipeline.schedule_run()
        if self._gpu:
            torch.cuda.synchronize()
        return count

    def close(self) -> None:
        """Drop the pipeline, and its threads with it."""
        del self._pipeline


def _dali_pipeline(setup: Setup, device_id: int | None, two_decodes: bool) -> Any:
    from nvidia import dali
    from nvidia.dali.auto_aug.rand_augment import rand_augment

    fn: Any = dali.fn  # its stubs know neither keyword dictionaries nor conditionals
    types: Any = dali.types
    pipeline_def: Any = dali.pipeline_def
    size = setup.image_size
    decoder = "cpu" if device_id is None else "mixed"
    crop = {"random_area": AREA, "random_aspect_ratio": RATIO}
    resize = {"interp_type": types.INTERP_CUBIC, "antialias": True}

    @pipeline_def(
        batch_size=setup.batch,
        num_threads=setup.threads,
        device_id=device_id,
        prefetch_queue_depth=DALI_AHEAD,
        enable_conditionals=True,
        seed=1,
    )
    def define() -> tuple:
        encoded, _ = fn.readers.file(files=list(setup.files), random_shuffle=True)
        if two_decodes:
            parts = [fn.decoders.image_random_crop(encoded, device=decoder, **crop) for _ in range(2)]
            views = [fn.resize(part, resize_x=size, resize_y=size, **resize) for part in parts]
        else:
            image = fn.decoders.image(encoded, device=decoder)
            views = [fn.random_resized_crop(image, size=size, **crop, **resize) for _ in range(2)]
        weak, strong = (fn.flip(view, horizontal=fn.random.coin_flip()) for view in views)
        if setup.augment:
            factors = [fn.random.uniform(range=(1 - JITTER, 1 + JITTER)) for _ in range(3)]
            weak = fn.color_twist(weak, brightness=factors[0], contrast=factors[1], saturation=factors[2])
            # One operation always, for timm's two with probability 1/2 each.
            strong = rand_augment(
                strong, n=1, m=9, num_magnitude_bins=11, shape=(size, size), fill_value=FILL[0]
            )
        return weak, strong

    return define()


def dali(setup: Setup, *, gpu: bool = False, two_decodes: bool = False) -> MeasuredLoader:
    """Stock DALI: files, decode, random-resized-crop with antialiased cubic filter.

    Args:
        setup: The comparison.
        gpu: Decode and resize on the first GPU; the batches stay there.
        two_decodes: Decode each view's window by itself.
    """
    try:
        import nvidia.dali  # noqa: F401
    except ImportError as error:
        raise AbsentError(f"{error}; pip install nvidia-dali-cuda130") from None
    if gpu and not torch.cuda.is_available():
        raise AbsentError("no CUDA GPU")
    return DaliPeer(setup, 0 if gpu else None, two_decodes)
