"""The benchmark of the entropy decoders compares what gives the same views."""

import io

import numpy as np
import pytest

from benchmarks.harness.result_tables import entropy
from benchmarks.loading.entropy import KNOWING, LEARNING, LIBJPEG, OWN, Work, result
from benchmarks.loading.native_op import draw_windows
from fastsemi.common.errors import UserError
from fastsemi.loaders.engines import native_operator

MISSING = native_operator.available()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


def work_on(images) -> Work:
    files = []
    for image in images:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        files.append(buffer.getvalue())
    sizes = np.array([image.size for image in images], np.int32)
    return Work(files, sizes, draw_windows(sizes, 2))


def test_rows_of_all_decoders_and_their_table(photo):
    work = work_on([photo(200 + 9 * i, 150, i) for i in range(3)])
    rows = result(work, "photographs", "two", 5)
    assert [row["decoder"] for row in rows] == [LIBJPEG, OWN, LEARNING, KNOWING]
    for row, shares in zip(rows, ((0, 0), (1, 0), (1, 1), (1, 1)), strict=True):
        assert [row[of] is not None for of in ("of_libjpeg", "of_own")] == [bool(share) for share in shares]
        assert row["us"]["median"] == pytest.approx(np.median([1e6 / rate for rate in row["samples"]]))
    assert "| 3 photographs, " in entropy(rows) and entropy(rows).count("\n") == 4


def test_a_decoder_with_other_views_is_refused(photo):
    work = work_on([photo(200, 150, 0)])
    work.check()
    work.operators[OWN] = work.operators[LIBJPEG]
    cut = work.cut
    work.cut = lambda decoder, windows: cut(decoder, windows) + (decoder == OWN)
    with pytest.raises(UserError, match="the views of own differ"):
        work.check()


def test_images_without_an_index_are_refused(photo):
    with pytest.raises(UserError, match="too small for an index"):
        work_on([photo(30, 20, 0)])
