"""Loading of decompressed entries as Python dicts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from godb_arrow import codec
from godb_arrow.errors import CorruptFile, LimitExceeded

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["load_chunks", "load_entry", "load_run"]


def load_entry(entries: codec.Entries, index: int) -> dict[Any, Any]:
    """Return a document as a dict, with the id that the collection has for it."""
    identity = entries.id(index)
    try:
        document = codec.load(entries.document(index))
    except CorruptFile as error:
        error.offset += entries.base + entries.bounds[2 * index + 1]
        error.message = f"document {identity!r} is {error.message}"
        raise
    except LimitExceeded as error:
        error.message = f"document {identity!r}: {error.message}"
        raise
    return codec.with_id(document, identity)


def load_chunks(
    entries: codec.Entries, rows: npt.NDArray[np.integer[Any]] | None = None
) -> Iterator[list[dict[Any, Any]]]:
    """Yield the documents of a run as dicts, in lists of a bounded size.

    Parameters
    ----------
    entries : Entries
        Scanned documents.
    rows : array of int, optional
        Indices of the documents to load, default all.

    Yields
    ------
    list of dict
        Documents, each with the id that the collection has for it.
    """
    chosen = None if rows is None else np.asarray(rows, np.int64)
    count = len(entries) if chosen is None else len(chosen)
    first = 0
    while first < count:
        documents = codec.load_documents(entries, chosen, first)
        if not documents:
            documents = [load_entry(entries, first if chosen is None else int(chosen[first]))]
        first += len(documents)
        yield documents


def load_run(entries: codec.Entries) -> Iterator[dict[Any, Any]]:
    """Return an iterator over the documents of a run; see :func:`load_chunks`."""
    return itertools.chain.from_iterable(load_chunks(entries))
