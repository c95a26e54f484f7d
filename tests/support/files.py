"""Files that this process has open."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def open_files(folder: Path) -> list[str]:
    """The files below a folder that are open, by their descriptors."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing had a descriptor of its own
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [one for one in found if one.startswith(str(folder)) and ".godb" in one]
