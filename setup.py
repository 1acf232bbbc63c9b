"""Builds the native image operator where a C++ compiler and libjpeg's headers are there."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CCompilerError, CompileError, LinkError, PlatformError

try:
    import pybind11
except ImportError:
    pybind11 = None  # type: ignore[assignment]

APT = "Debian, Ubuntu: apt install g++ libjpeg-dev; Fedora: dnf install gcc-c++ libjpeg-turbo-devel"
# Without contraction to fused multiply-adds, every CPU computes the same resize coefficients. GCC vectorises
# their loops, which choose by comparing, only where a comparison may not trap.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    "-ffp-contract=off",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-pthread",
]
JPEG_PROGRAM = """#include <cstdio>
#include <jpeglib.h>
int main() { jpeg_error_mgr e; jpeg_std_error(&e); }
"""
CONDA = "conda: conda install -c conda-forge cxx-compiler libjpeg-turbo"


def pkg_config(option: str) -> list[str]:
    """Flags for libjpeg where pkg-config knows it, else nothing: the compiler's own paths are used then."""
    try:
        done = subprocess.run(["pkg-config", option, "libjpeg"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return done.stdout.split()


class BuildNative(build_ext):
    """Skips the extension with a line that says what is missing and how to get it."""

    def compiles(self, name: str, source: str, libraries: list[str]) -> bool:
        """Try a small program."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.cpp")
            path.write_text(source)
            try:
                objects = self.compiler.compile(
                    [str(path)], output_dir=folder, extra_postargs=["-std=c++17", *pkg_config("--cflags")]
                )
                self.compiler.link_executable(
                    objects, name, folder, libraries=libraries, extra_postargs=pkg_config("--libs")
                )
            except (CompileError, LinkError, CCompilerError, PlatformError):
                return False
        return True

    def build_extensions(self) -> None:
        """Compile, or say why not."""
        missing = None
        if pybind11 is None:
            missing = "pybind11 (pip install pybind11)"
        elif not self.compiles("compiler", "#include <vector>\nint main() {}\n", []):
            missing = "a C++17 compiler"
        elif not self.compiles("libjpeg", JPEG_PROGRAM, ["jpeg"]):
            missing = "libjpeg-turbo with its headers"
        if missing is None:
            try:
                super().build_extensions()
                return
            except (CompileError, LinkError, CCompilerError, PlatformError) as error:
                missing = f"a compiler that can build it ({error})"
        self.extensions: list[Extension] = []
        sys.stderr.write(
            f"\nfastsemi is installed WITHOUT its native image operator, its loader will be slower. Missing: "
            f"{missing}.\nGet it ({APT}; {CONDA}), then install fastsemi again.\n\n"
        )


native = Extension(
    "fastsemi._native",
    sources=sorted(glob("kernels/csrc/**/*.cpp", recursive=True)),
    depends=sorted(p for kind in ("h", "inc") for p in glob(f"kernels/csrc/**/*.{kind}", recursive=True)),
    include_dirs=["kernels/csrc", *([pybind11.get_include()] if pybind11 else [])],
    libraries=["jpeg"],
    extra_compile_args=[*FLAGS, *pkg_config("--cflags")],
    extra_link_args=["-pthread", *pkg_config("--libs")],
    language="c++",
)

setup(ext_modules=[native], cmdclass={"build_ext": BuildNative})
