"""Fuzz the native operator under AddressSanitizer and UndefinedBehaviorSanitizer: python tests/fuzz/run.py.

Needs clang with libFuzzer (Debian: apt install clang libclang-rt-14-dev) and the headers of libjpeg. Ends
with 0 when all runs passed; a finding stays in the working folder as crash-*, its report is in fuzz.log.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
# Markers of the format, in libFuzzer's notation.
MARKERS = [
    "d8",
    "d9",
    "da",
    "db",
    "c0",
    "c1",
    "c2",
    "c4",
    "c9",
    "ca",
    "cc",
    "d0",
    "d1",
    "d7",
    "dd",
    "ee",
    "00",
    "ff",
]
FLAGS = ["-std=c++17", "-O1", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all"]
FLAGS += ["-ffp-contract=off"]  # as in setup.py: clang fuses by default


def build(folder: Path, name: str) -> Path:
    """Compile the target with the operator's sources, all but the Python module and the threads."""
    sources = [
        p for room in ("augment", "jpeg", "simd") for p in sorted(ROOT.glob(f"kernels/csrc/{room}/*.cpp"))
    ]
    target = folder / f"fuzz_{name}"
    command = ["clang++", *FLAGS, f"-I{ROOT / 'kernels/csrc'}", str(ROOT / f"tests/fuzz/fuzz_{name}.cpp")]
    subprocess.run([*command, *map(str, sources), "-ljpeg", "-o", str(target)], check=True)
    return target


def seeds() -> dict[str, bytes]:
    """Small JPEGs of every kind, each followed by the 8 bytes that choose the windows."""
    rng = np.random.default_rng(0)
    found: dict[str, bytes] = {}

    def add(name: str, data: bytes) -> None:
        found[name] = data + rng.integers(0, 256, 8, dtype=np.uint8).tobytes()

    for width, height in ((5, 3), (33, 18), (70, 40)):
        y, x = np.mgrid[0:height, 0:width]
        pixels = np.stack([x * 3, y * 5, x + y], -1) + rng.normal(90, 20, (height, width, 3))
        image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        for sampling in ("444", "422", "420", "440", "411"):
            data = simplejpeg.encode_jpeg(np.asarray(image), 80, colorsubsampling=sampling)
            add(f"{sampling}_{width}", data)
        options: dict[str, tuple[str, dict]] = {
            "grey": ("L", {}),
            "grey_progressive": ("L", {"progressive": True}),
            "cmyk": ("CMYK", {}),
            "progressive": ("RGB", {"progressive": True}),
            "optimised": ("RGB", {"optimize": True, "quality": 95}),
            "restarts": ("RGB", {"restart_marker_blocks": 2}),
            "rgb": ("RGB", {"keep_rgb": True}),
        }
        for name, (mode, save) in options.items():
            buffer = io.BytesIO()
            image.convert(mode).save(buffer, "JPEG", **save)
            add(f"{name}_{width}", buffer.getvalue())
    return found


def augment_seeds() -> dict[str, bytes]:
    """Each operation alone and each after one that waits to be looked up; see `fuzz_augment.cpp`."""
    rng = np.random.default_rng(0)
    found: dict[str, bytes] = {}
    for op in range(2, 17):
        for height, width in ((1, 1), (3, 3), (33, 64), (71, 17)):
            for steps in (1, 2):
                head = bytes([height - 1, width - 1, steps, 10, 120, 250])
                before = (
                    bytes([12]) + rng.integers(0, 256, 4, dtype=np.uint8).tobytes() if steps == 2 else b""
                )
                last = bytes([op]) + rng.integers(0, 256, 100, dtype=np.uint8).tobytes()
                found[f"{op}_{height}_{width}_{steps}"] = head + before + last
    return found


def main() -> int:
    """Build, make the seeds, run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=("native", "augment"), default="native", help="what to fuzz")
    parser.add_argument("--runs", type=int, default=1_000_000, help="inputs to try")
    parser.add_argument("--folder", type=Path, default=Path("build/fuzz"), help="where to work")
    parser.add_argument("--seed", type=int, default=0, help="of the fuzzer; 0 draws one")
    args = parser.parse_args()
    jpeg = args.target == "native"
    corpus = args.folder / ("corpus" if jpeg else "corpus-augment")
    corpus.mkdir(parents=True, exist_ok=True)
    for name, data in (seeds() if jpeg else augment_seeds()).items():
        (corpus / name).write_bytes(data)
    words = args.folder / "markers.dict"
    words.write_text("".join(f'"\\xff\\x{code}"\n' for code in MARKERS))
    target = build(args.folder.resolve(), args.target)
    command = [str(target), f"-runs={args.runs}", f"-seed={args.seed}", "-max_len=8192", "-timeout=20"]
    command += [f"-dict={words.resolve()}"] if jpeg else []
    command += ["-rss_limit_mb=4096", "-print_final_stats=1", str(corpus.resolve())]
    with open(args.folder / "fuzz.log", "wb") as log:
        code = subprocess.run(command, cwd=args.folder, stdout=log, stderr=log).returncode
    text = (args.folder / "fuzz.log").read_text(errors="replace")
    done = re.search(r"stat::number_of_executed_units:\s*(\d+)", text)
    sys.stdout.write(f"{done.group(1) if done else 'unknown number of'} inputs, exit code {code}\n")
    if code:
        sys.stdout.write("\n".join(text.splitlines()[-60:]) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
