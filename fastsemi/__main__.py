"""`python -m fastsemi`, which is what torchrun starts: `torchrun ... -m fastsemi train`."""

from fastsemi.commands.cli import script

if __name__ == "__main__":
    script()
