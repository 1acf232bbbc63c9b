"""`python -m benchmarks.kernels`, the short name of `benchmarks.ops.kernels`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("benchmarks.ops.kernels", run_name="__main__", alter_sys=True)
