"""Saved versions of a collection that the change feed compares."""

from __future__ import annotations

import time
from collections.abc import Iterator

from godb_arrow.errors import SourceNotFound, VersionNotFound
from godb_arrow.snapshots.base import Pin
from godb_arrow.snapshots.differences import differences
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["announced_version", "compared", "pinned_version"]

_POLL_SECONDS = 0.05
_MAX_WAITS = 20  # for a version that its writer announced


def compared(
    before: PartedBase | None, after: Snapshot, pin: Pin | None
) -> Iterator[tuple[str, bytes | None, bool]]:
    """Compare two states, and keep the files of the first one meanwhile."""
    yield from differences(before, after)
    del pin


def pinned_version(
    folder: PartFolder, number: int, created: float | None = None
) -> tuple[PartedBase, Pin]:
    """Return a version, and a pin that keeps its files.

    Raises
    ------
    VersionNotFound
    """
    try:
        manifest = folder.manifest(number)
        if created not in (None, manifest.created):
            raise VersionNotFound(f"version {number} is of another collection")
        base = PartedBase(folder, manifest)
        return base, base.pin()
    except SourceNotFound as error:
        raise VersionNotFound(f"there is no version {number}") from error


def announced_version(folder: PartFolder, number: int) -> tuple[PartedBase, Pin]:
    """Return a version that a record announces; its writer may need a moment.

    Raises
    ------
    VersionNotFound
    """
    for _ in range(_MAX_WAITS):
        if number <= max(folder.versions(), default=0):
            break
        time.sleep(_POLL_SECONDS)
    return pinned_version(folder, number)
