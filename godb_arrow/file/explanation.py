"""Explanation of a filtered read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress

from godb_arrow.display import table_of, vars_of
from godb_arrow.file.pieces import CollectionPieces

__all__ = ["Explanation"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Explanation of a filtered read.

    Attributes
    ----------
    index : str or None
        Field whose index finds the documents; None if all are read.
    candidates : int
        Number of documents that are decoded for the filter.
    documents : int
        Number of documents in the collection.
    source : {"memory", "file"}
        Where the documents are read from.
    pieces, pieces_read : int
        Number of pieces of the file, and number of pieces that are read. Statistics exclude the
        others. Both are 0 if the documents are in memory or found by an index, or if the file has
        no pieces.
    parts, parts_read : int
        Number of part files of the collection, and number of those that are read.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     users = engine.create_collection("users")
    ...     _ = users.insert_many([{"name": "Ada"}, {"name": "Bob"}])
    ...     users.create_index("name")
    ...     engine.save()
    ...     found = users.explain({"name": "Ada"})
    >>> found.index, found.candidates, found.documents
    ('name', 1, 2)
    """

    index: str | None
    candidates: int
    documents: int
    source: str
    pieces: int = 0
    pieces_read: int = 0
    parts: int = 1
    parts_read: int = 1

    def _repr_html_(self) -> str:
        return table_of("explanation", vars_of(self))

    @classmethod
    def of_pieces(
        cls, pieces: CollectionPieces | None, wanted: Sequence[bool] | None, count: int
    ) -> Explanation:
        """Explain a filter on one file."""
        if pieces is None:
            return cls(None, count, count, "file")
        chosen = [True] * len(pieces.pieces) if wanted is None else wanted
        left = sum(compress(pieces.documents, chosen))
        return cls(None, left, count, "file", len(pieces.pieces), sum(chosen))

    @classmethod
    def of_parts(cls, read: Sequence[Explanation], documents: int, parts: int) -> Explanation:
        """Combine the explanations of the parts that are read."""
        return cls(
            index=None,
            candidates=sum(part.candidates for part in read),
            documents=documents,
            source="file",
            pieces=sum(part.pieces for part in read),
            pieces_read=sum(part.pieces_read for part in read),
            parts=parts,
            parts_read=len(read),
        )
