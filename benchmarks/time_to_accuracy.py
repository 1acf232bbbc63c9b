"""`python -m benchmarks.time_to_accuracy`, the short name of `benchmarks.accuracy.time_to_accuracy`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("benchmarks.accuracy.time_to_accuracy", run_name="__main__", alter_sys=True)
