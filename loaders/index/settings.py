"""The settings of what an index says of its images."""

from typing import Literal

Exif = Literal["ignore", "apply"]
