"""Runs: decompressed entries that lie side by side in borrowed or owned memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from godb_arrow import codec
from godb_arrow.codec.entries import MeasuredEntries

__all__ = ["Run"]


class Loan(NamedTuple):
    """Entries in memory that others use after them.

    Attributes
    ----------
    entries : Entries
        Nothing of them may be kept: ids and documents of theirs are views of that memory.
    release : callable
        To be called when nobody looks at them any more.
    """

    entries: codec.Entries
    release: Callable[[], None]


class Run(NamedTuple):
    """Consecutive documents of a collection, which may still be compressed.

    They are asked for in one of the three ways, and once: others get their memory then.

    Attributes
    ----------
    start : int
        The row of the first one.
    documents : int
        How many they are.
    load : callable
        Gives their entries.
    measured : callable
        Gives them without having looked at them; None where their sizes are not known.
    lend : callable, optional
        Gives their entries to somebody who only decodes them.
    """

    start: int
    documents: int
    load: Callable[[], codec.Entries]
    measured: Callable[[], MeasuredEntries | None] = lambda: None
    lend: Callable[[], Loan] | None = None

    @classmethod
    def of(cls, entries: codec.Entries, start: int = 0) -> Run:
        """Documents that are in memory."""
        return cls(start, len(entries), lambda: entries)

    def loaded(self) -> codec.Entries:
        """The entries."""
        return self.load()

    def lent(self) -> Loan:
        """The entries, to be decoded and given back."""
        return self.lend() if self.lend is not None else Loan(self.load(), lambda: None)
