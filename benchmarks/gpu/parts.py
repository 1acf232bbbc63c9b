"""The parts of `benchmarks.gpu.suite` that are no benchmark of their own; each runs in its own process.

    python -m benchmarks.gpu.parts environment|peaks|warm|native|tests|waits --out FOLDER [--tiny]

Exit code 0: done; 77: cannot run here, 78: done in part, the last line says why; anything else: failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import harness
from benchmarks.harness.environment import environment

SKIPPED, PARTIAL = 77, 78
ROOT = Path(__file__).parents[2]
MODULES = {
    **{"timm": "timm", "triton": "triton", "numpy": "numpy", "pillow": "PIL", "scipy": "scipy"},
    **{"simplejpeg": "simplejpeg", "DALI": "nvidia.dali", "jsonargparse": "jsonargparse", "rich": "rich"},
    **{"tensorboard": "tensorboard", "matplotlib": "matplotlib", "pytest": "pytest", "ffcv": "ffcv"},
    **{"pybind11": "pybind11", "scikit-learn": "sklearn", "pyarrow": "pyarrow"},
}
PROGRAMS = ("g++", "nvcc", "git", "nvidia-smi")
STEPS = 100  # without one wait


class SkipError(Exception):
    """A part that cannot run here; the message says why, in one line."""


class PartialError(Exception):
    """A part of which something was left out; the message says what was done and what was not."""


def has(module: str) -> bool:
    """Whether a module is installed; it is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def missing() -> list[str]:
    """Packages that this machine lacks, by name."""
    return [name for name, module in MODULES.items() if not has(module)]


def facts(out: Path, tiny: bool) -> str:
    """Write `environment.json`: hardware, versions, what is missing, and what nvidia-smi says."""
    smi = None
    if shutil.which("nvidia-smi"):
        fields = "name,memory.total,driver_version,pstate,clocks.max.sm,clocks.max.mem,power.limit,"
        fields += "temperature.gpu,mig.mode.current,compute_mode,pcie.link.gen.current"
        query = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=30)
        smi = (done.stdout or done.stderr).strip().splitlines()
    gpu = None
    if torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        gpu = {"name": p.name, "bytes": p.total_memory, "multiprocessors": p.multi_processor_count}
        gpu |= {"capability": f"{p.major}.{p.minor}", "l2_bytes": getattr(p, "L2_cache_size", None)}
    found = {
        **{"environment": environment(), "missing": missing(), "nvidia_smi": smi, "gpu": gpu},
        "programs": {name: shutil.which(name) for name in PROGRAMS},
        "cuda": torch.version.cuda,
    }
    (out / "environment.json").write_text(json.dumps(found, indent=1) + "\n")
    return f"missing packages: {', '.join(missing()) or 'none'}"


def ceilings(out: Path, tiny: bool) -> str:
    """Write `peaks.json`: bandwidth of a copy, and matrix products of each number format, on random data."""
    gpu = torch.cuda.is_available()
    device = "cuda" if gpu else "cpu"
    timer: harness.Timer = harness.DeviceTimer(repeats=10) if gpu else harness.wall_seconds
    source = torch.randint(256, ((2 << 30) if gpu else (8 << 20),), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    moved = 2.0 * source.nbytes  # read and written
    cases = [
        harness.Case("peaks/copy", partial(target.copy_, source), 1, timer, {"label": "copy", "work": moved})
    ]
    side = 8192 if gpu else 256 if tiny else 2048
    kinds = [("bf16", torch.bfloat16, False), ("fp32", torch.float32, False)]
    kinds += [("fp16", torch.float16, False), ("TF32", torch.float32, True)] if gpu else []
    for name, dtype, tf32 in kinds:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

        def product(a: torch.Tensor = a, b: torch.Tensor = b, tf32: bool = tf32) -> None:
            torch.backends.cuda.matmul.allow_tf32 = tf32
            torch.mm(a, b)

        details = {"label": f"{name} matrix product", "work": 2.0 * side**3}
        cases.append(harness.Case(f"peaks/matmul {name}", product, 1, timer, details))
    measured = harness.measure(cases, rounds=5, warmup=2)
    rows = harness.rows(
        measured, unit="ms", threads=torch.get_num_threads(), configuration={"side": side}, device=device
    )
    for row in rows:
        copies = row["label"] == "copy"
        scale = 1e9 if copies else 1e12
        row["rate"] = harness.spread([row["work"] / (ms / 1e3) / scale for ms in row["samples"]])
        row["rate_unit"] = "GB/s" if copies else "TFLOP/s"
    harness.write(out / "peaks.json", rows)
    return ", ".join(f"{row['label']} {row['rate']['median']:,.4g} {row['rate_unit']}" for row in rows)


def native(out: Path, tiny: bool) -> str:
    """Build the native image operator in the tree where it is not there."""
    from fastsemi.loaders.engines.native_operator import available

    if available() is None:
        return "the native operator is there"
    for module in ("setuptools", "pybind11"):
        if not has(module):
            raise SkipError(f"{module} is not installed, so the native operator cannot be built")
    if not shutil.which("g++"):
        raise SkipError("there is no g++, so the native operator cannot be built")
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"], cwd=ROOT, capture_output=True, text=True
    )
    importlib.invalidate_caches()
    if available() is not None:
        reasons = [line for line in (done.stderr + done.stdout).splitlines() if "Missing" in line]
        reasons += (done.stderr + done.stdout).splitlines()[-1:]
        raise SkipError(
            f"the native operator was not built: {reasons[0].strip() if reasons else 'no reason'}"
        )
    return "the native operator was built"


def warm(out: Path, tiny: bool) -> str:
    """Compile the step's Triton kernels, which takes long once, so that no later part's time holds it."""
    from benchmarks.step.step_cases import SIZES, ProductStep
    from fastsemi.common.precision import Precision, select_device

    size, device = SIZES["tiny" if tiny else "S"], select_device("auto")
    start = time.perf_counter()
    step = ProductStep(size, 4, Precision.select("auto", device), compiled="no", augment=True)
    try:
        for fraction in (0.0, 0.35):
            step.reject(fraction)
            step.step()
            step.work()  # reads a number of the device: all has run
    finally:
        step.close()
    return f"four steps of {size.name} in {time.perf_counter() - start:.1f} s"


def tests(out: Path, tiny: bool) -> str:
    """Run the tests marked `gpu`; what could not run is named."""
    if not torch.cuda.is_available():
        raise SkipError("no CUDA GPU")
    if not has("pytest"):
        raise SkipError("pytest is not installed")
    report = out / "tests.xml"
    marked = [
        path
        for path in sorted((ROOT / "tests").rglob("test_*.py"))
        if re.search(r"mark\.gpu\b", path.read_text())
    ]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", f"--junitxml={report}", *map(str, marked)]
    report.unlink(missing_ok=True)  # of an earlier call
    with (out / "tests.log").open("w") as log:  # where time runs out, it ends with the culprit
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
    if not report.exists():
        raise RuntimeError(f"pytest ended with code {done.returncode} and no report: see tests.log")
    return judge(ElementTree.parse(report).getroot(), set(missing()))


def judge(report: ElementTree.Element, lacking: set[str]) -> str:
    """One line on a JUnit report.

    Args:
        report: Of pytest.
        lacking: Packages that may be missing.

    Raises:
        RuntimeError: A test failed, for another reason than a package that is not installed.
        SkipError: No test ran.
        PartialError: Files could not be imported, or tests were skipped.
    """
    modules = {MODULES[name] for name in lacking}
    passed, failed, left = 0, [], []
    for case in report.iter("testcase"):
        wrong = [child for child in case if child.tag in ("failure", "error")]
        text = " ".join(f"{child.get('message', '')} {child.text or ''}" for child in wrong)
        absent = re.search(r"No module named '([\w.]+)'", text)
        if wrong and absent and absent[1] in modules:
            left.append(f"{case.get('classname') or case.get('name')} (no {absent[1]})")
        elif wrong:
            failed.append(f"{case.get('classname')}.{case.get('name')}")
        elif reasons := [child.get("message") or "skipped" for child in case if child.tag == "skipped"]:
            left.append(f"{case.get('classname')} ({reasons[0]})")
        else:
            passed += 1
    if failed:
        raise RuntimeError(f"{len(failed)} tests failed, {passed} passed: {', '.join(failed)}")
    named = ", ".join(dict.fromkeys(left))
    if not passed:
        raise SkipError(f"no test could run: {named}")
    if left:
        raise PartialError(f"{passed} tests passed, left out: {named}")
    return f"{passed} tests passed"


def waits(out: Path, tiny: bool) -> str:
    """Steps in which an operation that waits for the GPU is an error; on a CPU, its reads are counted.

    The one wait of a step, for the count of kept samples, is for an event: it does not drain the queue, and
    PyTorch's check does not see it.
    """
    from benchmarks.step.step_cases import SIZES, ProductStep
    from benchmarks.step.step_profile import Reads
    from fastsemi.common.precision import Precision, select_device

    device = select_device("auto")
    gpu = device.type == "cuda"
    size = SIZES["tiny" if tiny else "S"]
    precision = Precision.select("auto", device)
    step = ProductStep(size, size.gpu_batch // 4 or 2, precision, compiled="no", augment=True)
    counts = {}
    try:
        for name, fraction in (("kept", 0.0), ("rejected", 0.35)):
            step.reject(fraction)
            for _ in range(3):
                step.step()
            if not gpu:
                with Reads() as reads:
                    step.step()
                counts[name] = reads.count
                if reads.count > 2:  # kept samples, and on a CPU whether the gradient is finite
                    raise RuntimeError(f"the host reads {reads.count} values in a step ({name}), not 2")
                continue
            torch.cuda.synchronize()
            torch.cuda.set_sync_debug_mode("error")
            try:
                for _ in range(STEPS):
                    step.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()
            counts[name] = 0
    finally:
        step.close()
    (out / "waits.json").write_text(json.dumps({"steps": STEPS if gpu else 1, "waits": counts}) + "\n")
    if gpu:
        return f"{2 * STEPS} steps without an operation that waits for the GPU"
    return f"no CUDA GPU; values read by the host in a step: {counts}"


PARTS = {"environment": facts, "peaks": ceilings, "warm": warm}
PARTS |= {"native": native, "tests": tests, "waits": waits}


def main() -> int:
    """Run one part."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    try:
        print(PARTS[args.part](args.out.resolve(), args.tiny))
    except SkipError as reason:
        print(reason)
        return SKIPPED
    except PartialError as reason:
        print(reason)
        return PARTIAL
    return 0


if __name__ == "__main__":
    sys.exit(main())
