"""`python -m benchmarks.loaders`, the short name of `benchmarks.loading.loaders`."""

import runpy

if __name__ == "__main__":
    runpy.run_module("benchmarks.loading.loaders", run_name="__main__", alter_sys=True)
