"""What limits a job, from given figures."""

from dataclasses import replace

import pytest

from fastsemi.tools.profile.verdict import Figures, judge, predicted_job

GPU = Figures(
    job=1850,
    step=3100,
    loader=1900,
    decode=2000,
    read=38_000,
    threads=8,
    cores=16,
    readers=8,
    shared_threads=True,
    prefetch=4,
    on_gpu=True,
    wait=0.4,
    decode_share=0.7,
    spans={"student": 0.03, "backward": 0.06, "teacher": 0.02, "augment": 0.005},
)
LATE = "; the step still waited for data 40% of the time: loader.prefetch 8 instead of 4 would even out slow"


def test_a_gpu_that_waits_for_few_threads():
    verdict = judge(GPU)
    assert verdict.bound == "loader"
    assert verdict.text.startswith(
        "loader-bound: the GPU could take 3,100 images/s, the loader gives 1,900; "
        "loader.threads 14 instead of 8"
    )
    threads, raw = verdict.advice
    assert threads.images_per_s == pytest.approx(1850 * 3100 / 1900, rel=0.01)  # all that the step can take
    assert "raw beton" in raw.what and raw.images_per_s == pytest.approx(threads.images_per_s, rel=0.01)


def test_advice_stops_at_the_cores():
    verdict = judge(replace(GPU, cores=10))
    assert "loader.threads 10 instead of 8" in verdict.text
    assert verdict.advice[0].images_per_s == pytest.approx(1850 * 1.24, rel=0.02)  # 25 % more threads decode
    all_cores = judge(replace(GPU, cores=8))
    assert [a.what[:9] for a in all_cores.advice] == ["raw beton"]
    nothing = judge(replace(GPU, cores=8, raw=True))
    assert nothing.advice == () and "more or faster cores" in nothing.text


def test_a_slow_disk():
    figures = replace(GPU, read=200, loader=190, job=185)
    verdict = judge(figures)
    assert "because reading gives 200 (decoding could give 2,000)" in verdict.text
    assert verdict.advice[0].what.startswith("loader.threads 64 instead of 8")
    assert 185 * 4 < verdict.advice[0].images_per_s < 185 * 8
    assert "disk that keeps up" in verdict.advice[1].what
    assert verdict.advice[1].images_per_s == pytest.approx(185 * 2000 / 190, rel=0.1)


def test_readers_apart_need_batches_under_way():
    figures = replace(GPU, read=400, loader=390, job=380, shared_threads=False, readers=4)
    what = judge(figures).advice[0].what
    assert "loader.threads 21 instead of 8" in what and "loader.prefetch 21 instead of 4" in what


def test_compute_bound():
    figures = replace(GPU, loader=9000, decode=9500, job=3000, wait=0.01, compiled=False)
    verdict = judge(figures)
    assert verdict.bound == "compute"
    assert "the GPU takes 3,100 images/s at most, the loader could give 9,000" in verdict.text
    assert "52% backward, 26% student, 17% teacher" in verdict.text
    assert [a.what for a in verdict.advice] == ["compile.enabled true"]
    wasteful = judge(replace(figures, wasted=0.5, precision_advice="bf16", compiled=True))
    assert [a.what for a in wasteful.advice] == ["semi.skip_rejected true", "precision bf16"]
    # half the student's samples, which are 78 % of the step
    assert wasteful.advice[0].images_per_s == pytest.approx(3000 / (1 - 0.5 * 0.09 / 0.115), rel=0.01)


def test_a_late_loader_that_is_fast_enough():
    text = judge(replace(GPU, loader=9000, decode=9500, job=2400, wait=0.2)).text
    assert "waited for data 20% of the time" in text and "loader.prefetch 8 instead of 4" in text


def test_balanced():
    verdict = judge(replace(GPU, step=2100, job=1500))
    assert verdict.bound == "balanced"
    assert "loader.threads 10 instead of 8 would give about" in verdict.text
    assert verdict.advice[0].images_per_s == pytest.approx(1500 * 2100 / 1900, rel=0.01)
    assert judge(replace(GPU, step=1950)).text.endswith("a gain needs both to be faster" + LATE + " batches")


def test_a_step_on_the_cpu_is_told_what_decoding_takes_from_it():
    figures = replace(
        GPU, on_gpu=False, threads=2, cores=2, readers=2, step=1000, loader=4000, decode=4000, job=800
    )
    verdict = judge(figures)
    assert verdict.bound == "compute" and [a.what[:10] for a in verdict.advice] == ["raw beton "]
    # decoding takes a fifth of the cores' time; the 30 % of it that resizes stays
    assert verdict.advice[0].images_per_s == pytest.approx(800 * 1.25 / 1.075, rel=0.01)
    assert verdict.text.endswith("a faster loader could bring at most 1,000")
    alone = judge(replace(figures, raw=True, job=990))
    assert alone.text.endswith("a faster loader could bring nothing") and not alone.advice


def test_on_a_cpu_loader_and_step_share_the_cores():
    figures = replace(GPU, on_gpu=False, threads=2, cores=2, readers=2, step=1000, loader=1000, decode=1000)
    assert predicted_job(figures) == pytest.approx(500)  # each gets half the cores' time
    assert predicted_job(replace(figures, step_threads=1)) == pytest.approx(2000 / 3)
    assert judge(replace(figures, loader=300, decode=300, job=200)).advice[0].what.startswith("raw beton")


def test_one_thread_of_two_cores():
    figures = replace(
        GPU, on_gpu=False, threads=1, cores=2, readers=1, step=5000, loader=500, decode=510, job=480
    )
    advice = judge(figures).advice[0]
    assert advice.what == "loader.threads 2 instead of 1"
    assert advice.images_per_s == pytest.approx(2 * 480, rel=0.2)


def test_no_prediction_passes_what_the_step_takes():
    figures = replace(
        GPU, on_gpu=False, threads=2, cores=2, readers=2, step=1400, loader=1300, decode=1300, job=1290
    )
    (raw,) = judge(figures).advice
    assert raw.images_per_s == 1400
