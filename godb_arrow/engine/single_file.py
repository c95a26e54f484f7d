"""Writing several collections to one file."""

from __future__ import annotations

import os
from collections.abc import Sequence

from godb_arrow.directory.snapshot_writer import write_snapshots
from godb_arrow.engine.collection import Collection, settings_of
from godb_arrow.snapshots.readable import snapshot_of
from godb_arrow.storage.modes import UNLIMITED
from godb_arrow.storage.replace import replace_file

__all__ = ["write_collections"]


def write_collections(
    path: str | os.PathLike[str], collections: Sequence[Collection], threads: int
) -> int:
    """Write collections to one file, which is replaced atomically.

    Parameters
    ----------
    path : path
        The file.
    collections : sequence of Collection
        The collections.
    threads : int
        Number of threads that compress.

    Returns
    -------
    int
        Number of documents.
    """
    written = []
    access = UNLIMITED
    for collection in collections:
        snapshot = snapshot_of(collection)
        access &= snapshot.base.access()
        written.append((collection.name, snapshot, collection.next_id, *settings_of(collection)))
    return write_snapshots(
        replace_file(path, access=access), written, keep_extras=False, threads=threads
    )
