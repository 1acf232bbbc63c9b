"""`python -m benchmarks.steps`, the short name of `benchmarks.step.steps`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("benchmarks.step.steps", run_name="__main__", alter_sys=True)
