"""Documents of runs that match a predicate."""

from __future__ import annotations

import numpy as np

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.predicate import Predicate
from godb_arrow.codec.runs import Run

__all__ = ["MAX_RECORDED_FIELDS", "count_run", "select_run", "without_rows"]

MAX_RECORDED_FIELDS = 8
"""Max fields whose positions are recorded while documents are located."""


def without_rows(rows: Rows, deleted: Rows | tuple[()]) -> Rows:
    """Return rows without deleted ones; both are in order."""
    return np.setdiff1d(rows, deleted, assume_unique=True) if len(deleted) else rows


def select_run(run: Run, predicate: Predicate, deleted: Rows) -> tuple[codec.Entries, Rows]:
    """Find the documents of a run that match.

    Parameters
    ----------
    run : Run
        The documents.
    predicate : Predicate
        The condition.
    deleted : array of int64
        Indices of documents in the run that are deleted.

    Returns
    -------
    entries : Entries
        Documents, in memory of their own.
    rows : array of int64
        The indices of the matching ones among them, in order.
    """
    measured = run.measured()
    if measured is None:
        entries = run.load()
        return entries, without_rows(codec.select(entries, predicate), deleted)
    try:
        rows = codec.select_front(measured, predicate)
        if rows is None:
            entries = measured.scan(bytes(measured.data), len(measured), ())
            return entries, without_rows(codec.select(entries, predicate), deleted)
        rows = without_rows(rows, deleted)
        return codec.take_measured(measured, rows), np.arange(len(rows))
    finally:
        measured.release()


def count_run(run: Run, predicate: Predicate, deleted: Rows) -> int:
    """Count the documents of a run that match and are not deleted."""
    measured = run.measured()
    rows = None
    if measured is not None:
        try:
            rows = codec.select_front(measured, predicate)
            if rows is None:
                rows = codec.select(measured.entries(), predicate)
        finally:
            measured.release()
    else:
        borrowed = run.borrowed()
        try:
            rows = codec.select(borrowed.entries, predicate)
        finally:
            borrowed.release()
    return len(without_rows(rows, deleted))
