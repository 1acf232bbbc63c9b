"""`python -m fastsemi`, which is what torchrun starts: `torchrun ... -m fastsemi train`."""

import sys

from fastsemi.commands.cli import main

if __name__ == "__main__":
    sys.exit(main())
