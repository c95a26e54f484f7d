"""Runs of entries in memory: scanning, gathering, and dropping some of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows

__all__ = ["gather", "gathered", "kept_bytes", "scan", "without"]


def without(entries: codec.Entries, superseded: Rows) -> codec.Entries:
    """Return entries without some of them."""
    return (
        scan(bytes(kept_bytes(entries, superseded)), len(entries) - len(superseded))
        if len(superseded)
        else entries
    )


def kept_bytes(entries: codec.Entries, superseded: Rows) -> bytes | memoryview:
    """Return the bytes of entries without some of them."""
    if not len(superseded):
        return entries.raw()
    bounds = np.frombuffer(entries.bounds, np.int64)
    edges = np.empty(2 * len(superseded) + 2, np.int64)
    edges[0], edges[-1] = bounds[0], bounds[-1]
    edges[1:-1:2], edges[2:-1:2] = bounds[2 * superseded], bounds[2 * superseded + 2]
    view = memoryview(entries.data)
    return b"".join([view[first:last] for first, last in edges.reshape(-1, 2).tolist()])


def scan(data: bytes, count: int) -> codec.Entries:
    """Scan bytes that are a number of whole entries."""
    return codec.scan_entries(data, 0, count, len(data) + 1, 0)


def gather(entries: Iterable[tuple[codec.Entries, int]]) -> codec.Entries:
    """Copy entries of several runs into one run."""
    pieces = [_entry(run, index) for run, index in entries]
    return scan(b"".join(pieces), len(pieces))


def gathered(
    entries: Iterable[tuple[codec.Entries, int]], max_entries: int, max_bytes: int
) -> Iterator[codec.Entries]:
    """Yield copies of entries in runs of a bounded size, each with at least one entry."""
    pieces: list[bytes] = []
    size = 0
    for run, index in entries:
        piece = _entry(run, index)
        if pieces and (len(pieces) == max_entries or size + len(piece) > max_bytes):
            yield scan(b"".join(pieces), len(pieces))
            pieces, size = [], 0
        pieces.append(piece)
        size += len(piece)
    if pieces:
        yield scan(b"".join(pieces), len(pieces))


def _entry(run: codec.Entries, index: int) -> bytes:
    return run.data[run.bounds[2 * index] : run.bounds[2 * index + 2]]
