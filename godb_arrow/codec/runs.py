"""Runs of decompressed entries, side by side in borrowed or owned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from godb_arrow import codec
from godb_arrow.codec.entries import MeasuredEntries, UnscannedEntries

__all__ = ["Run"]


class BorrowedEntries(NamedTuple):
    """Entries in borrowed memory.

    Attributes
    ----------
    entries : Entries
        Borrowed entries. Keep nothing of them, because their ids and documents are views.
    release : callable
        Function to call when the entries are no longer in use.
    """

    entries: codec.Entries
    release: Callable[[], None]


class Run(NamedTuple):
    """Run of consecutive documents of a collection, which may still be compressed.

    Ask for the documents in one of the ways, and only once. Their memory is reused after.

    Attributes
    ----------
    start : int
        Row of the first document.
    documents : int
        Number of documents.
    load : callable
        Function that returns the entries.
    measured : callable
        Function that returns the entries unscanned, or None where their sizes are not known.
    unscanned : callable
        Function that returns the entries unscanned, or None where they are scanned anyway.
    """

    start: int
    documents: int
    load: Callable[[], codec.Entries]
    measured: Callable[[], MeasuredEntries | None] = lambda: None
    unscanned: Callable[[], UnscannedEntries | None] = lambda: None

    @classmethod
    def of(cls, entries: codec.Entries, start: int = 0) -> Run:
        """Create a run of documents that are in memory."""
        return cls(start, len(entries), lambda: entries)

    def loaded(self) -> codec.Entries:
        """Return the entries."""
        return self.load()

    def borrowed(self) -> BorrowedEntries:
        """Return the entries as borrowed memory, to be decoded and released."""
        unscanned = self.unscanned()
        if unscanned is None:
            return BorrowedEntries(self.load(), lambda: None)
        return BorrowedEntries(unscanned.entries(), unscanned.release)
