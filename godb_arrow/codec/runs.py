"""Runs of decompressed entries, side by side in borrowed or owned memory."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
    scanned : callable
        Function that returns the entries in borrowed memory, or None where they are in their own.
    """

    start: int
    documents: int
    load: Callable[[], codec.Entries]
    measured: Callable[[], MeasuredEntries | None] = lambda: None
    unscanned: Callable[[], UnscannedEntries | None] = lambda: None
    scanned: Callable[[], BorrowedEntries | None] = lambda: None

    @classmethod
    def of(cls, entries: codec.Entries, start: int = 0) -> Run:
        """Create a run of documents that are in memory."""
        return cls(start, len(entries), lambda: entries)

    @classmethod
    def borrowing(cls, entries: codec.Entries, release: Callable[[], None], start: int) -> Run:
        """Create a run of documents that are in borrowed memory."""

        def load() -> codec.Entries:
            owned = replace(entries, data=codec.copied(memoryview(entries.data)))
            release()
            return owned

        return cls(start, len(entries), load, scanned=lambda: BorrowedEntries(entries, release))

    @classmethod
    def of_unscanned(cls, unscanned: UnscannedEntries, start: int) -> Run:
        """Create a run of documents that are in borrowed memory, without their bounds."""

        def load() -> codec.Entries:
            owned = unscanned.scan(codec.copied(memoryview(unscanned.data)), len(unscanned))
            unscanned.release()
            return owned

        return cls(start, len(unscanned), load, unscanned=lambda: unscanned)

    def loaded(self) -> codec.Entries:
        """Return the entries."""
        return self.load()

    def borrowed(self) -> BorrowedEntries:
        """Return the entries as borrowed memory, to be decoded and released."""
        scanned = self.scanned()
        if scanned is not None:
            return scanned
        unscanned = self.unscanned()
        if unscanned is None:
            return BorrowedEntries(self.load(), lambda: None)
        return BorrowedEntries(unscanned.entries(), unscanned.release)
