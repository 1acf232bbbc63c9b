"""Dealing planned operations to passes."""

import numpy as np
import pytest
import torch

from fastsemi.kernels.augment.passes import COLUMNS, NONE, STATISTICS, TABLES, WARPS, schedule
from fastsemi.loaders.plan.types import RANDAUGMENT_OPS

NEIGHBOURS = {*WARPS, "sharpness"}


def drawn(layers, batch, seed=0, share=0.6):
    rng = np.random.default_rng(seed)
    op = rng.integers(0, len(RANDAUGMENT_OPS), (layers, batch))
    return np.where(rng.random(op.shape) < share, op, -1), rng.random(op.shape).astype(np.float32)


def passes_by_round(plan):
    """Each round's passes as dictionaries."""
    rows = [dict(zip(COLUMNS, row, strict=True)) for row in plan.passes.tolist()]
    ends = np.cumsum([count for count, _, _ in plan.rounds])
    assert ends[-1] == len(rows)
    return [rows[end - count : end] for end, (count, _, _) in zip(ends, plan.rounds, strict=True)]


@pytest.mark.parametrize(("layers", "batch"), [(1, 1), (2, 300), (5, 200)])
def test_every_image_gets_its_operations_in_order(layers, batch):
    op, arg = drawn(layers, batch)
    plan = schedule(op, arg, 9, 7, tiles=3)
    slots, done = {}, {}
    for r, rows in enumerate(passes_by_round(plan)):
        written = {}
        for row in rows:
            sample = row["source"] if r == 0 else slots[row["source"]]
            steps = done.setdefault(sample, [])
            assert steps is not None, "no pass follows the final one"
            names = [RANDAUGMENT_OPS[code] for code in plan.op[row["first"] : row["last"]]]
            steps += zip(names, plan.arg[row["first"] : row["last"]].tolist(), strict=True)
            looking = [i for i, name in enumerate(names) if name in STATISTICS]
            assert row["look"] == row["first"] + (looking or [len(names)])[0] and len(looking) <= 1
            assert not any(name in NEIGHBOURS for name in names[1:])
            assert (row["neighbours"] != NONE) == (bool(names) and names[0] in NEIGHBOURS)
            assert not (looking and row["neighbours"] != NONE)
            if row["final"]:
                layers = zip(op[:, sample], arg[:, sample].tolist(), strict=True)
                expected = [(RANDAUGMENT_OPS[code], value) for code, value in layers if code >= 0]
                assert row["target"] == sample and steps == expected
                done[sample] = None
            else:
                written[row["target"]] = sample
        slots = written
        assert all(slot < plan.slots for slot in slots)
    assert set(done) == set(range(batch)) and not any(done.values())


def test_passes_with_statistics_come_first_and_their_partial_sums_lie_apart():
    plan = schedule(*drawn(5, 200), 9, 7, tiles=3)
    for rows, (_, looks, tables) in zip(passes_by_round(plan), plan.rounds, strict=True):
        needs = [RANDAUGMENT_OPS[plan.op[r["look"]]] if r["look"] < r["last"] else None for r in rows]
        assert [name in TABLES for name in needs] == [i < tables for i in range(len(rows))]
        assert [name in STATISTICS for name in needs] == [i < looks for i in range(len(rows))]
        sizes = [3 * 768] * tables + [3] * (looks - tables)
        assert [row["extra"] for row in rows[:looks]] == (np.cumsum([0, *sizes])[:-1]).tolist()[:looks]


def test_colour_jitter_is_one_round_and_two_layers_are_two():
    rng = np.random.default_rng(0)
    color = [RANDAUGMENT_OPS.index(name) for name in ("brightness", "contrast", "color")]
    op = np.stack([rng.permuted(color) for _ in range(50)], axis=1)
    assert schedule(op, np.ones(op.shape, np.float32), 9, 9, 1).rounds == ((50, 50, 0),)
    assert len(schedule(*drawn(2, 500), 9, 9, 1).rounds) == 2


def test_what_reaches_the_device_is_what_was_planned():
    plan = schedule(*drawn(2, 40), 9, 7, tiles=1)
    for tensor, name in zip(plan.to(torch.device("cpu")), ("passes", "op", "arg", "affine"), strict=True):
        np.testing.assert_array_equal(tensor.numpy(), getattr(plan, name))
