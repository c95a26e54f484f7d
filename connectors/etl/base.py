"""Sources and targets of a copy, as protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.encoding import Encoded, check_sizes, encode_rows
from godb_arrow.documents.ids import IdSequence, ids_of
from godb_arrow.documents.json_source import JsonSource
from godb_arrow.documents.loading import load_run
from godb_arrow.documents.rows import Rows
from godb_arrow.errors import InvalidOption, TargetExists
from godb_arrow.options import IfExists
from godb_arrow.query.filters import Filter
from godb_arrow.schema import ID_FIELD

__all__ = ["STATE", "Count", "Data", "Documents", "Origin", "Target", "counted"]


Count = Callable[[int], Any]
STATE = "godb_arrow_copies"
"""Collection or table with the token of each incremental copy."""


class Documents:
    """Stored documents with their schema, which are copied to GODB files byte for byte.

    Parameters
    ----------
    schema : pyarrow.Schema or callable
        Schema of the documents, or a function that returns it where it is needed.
    runs : iterator of Entries
        The documents, which can be read once.
    map_entries : callable, optional
        Function that reads the documents in place of `runs`, and applies another one to them on
        the threads that load them; see :meth:`StoredCollection.map_entries`.
    """

    def __init__(
        self,
        schema: pa.Schema | Callable[[], pa.Schema],
        runs: Iterator[codec.Entries],
        map_entries: Callable[[Callable[[codec.Entries], Any]], Iterator[Any]] | None = None,
    ) -> None:
        self._schema = schema
        self._runs = runs
        self.map_entries = map_entries

    @cached_property
    def schema(self) -> pa.Schema:
        """Schema of the documents."""
        return self._schema() if callable(self._schema) else self._schema

    @property
    def stored_schema(self) -> pa.Schema:
        """Schema of the documents, as :class:`Scannable` has it."""
        return self.schema

    def stored_entries(self) -> Iterator[codec.Entries]:
        """Return the documents in runs, which can be read once."""
        return self._runs

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for run in self._runs:
            yield from load_run(run)

    def encode_documents(
        self,
        id_field: str,
        sequence: IdSequence,
        limit: int,
        prepare: Callable[[Encoded], Encoded] = lambda encoded: encoded,
    ) -> Iterator[Encoded]:
        """Yield the documents unchanged, for a collection that takes them byte for byte.

        With ids of another field they are decoded.
        """
        if id_field != ID_FIELD:
            rows = Rows(None, documents=iter(self))
            yield from encode_rows(rows, id_field, False, sequence, max_document_bytes=limit)
            return
        for run in self._runs:
            for entries in run.split():
                ids = ids_of(entries)
                sizes = np.diff(np.frombuffer(entries.bounds, np.int64)[::2])
                check_sizes(sizes, ids, limit)
                yield prepare(Encoded(bytes(entries.raw()), ids, given=True))


Data: TypeAlias = "Documents | JsonSource | Iterator[dict[Any, Any]] | pa.RecordBatchReader"


def counted(data: Data, count: Count) -> Data:
    """Return the same data, and count the documents as they are read."""

    def tallied(parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            yield part
            count(len(part))

    if isinstance(data, Documents):
        return Documents(data.schema, tallied(data.stored_entries()))
    if hasattr(data, "counted"):  # of a file of documents
        return data.counted(count)
    if isinstance(data, pa.RecordBatchReader):
        return pa.RecordBatchReader.from_batches(data.schema, tallied(data))

    def documents() -> Iterator[dict[str, Any]]:
        for document in data:
            yield document
            count(1)

    return documents()


# --- sources ----------------------------------------------------------------------------------


class Origin(ABC):
    """Source of a copy."""

    name: str
    format: str | None = None
    """Format of a file that has one, apart from GODB."""

    def total(self) -> int | None:
        """Return the number of documents, if known."""
        return None

    def conflicts(self) -> list[str]:
        """Return the fields whose values have several types."""
        return []

    @abstractmethod
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Any:
        """Open the source as documents or record batches; return a context manager."""


# --- targets ----------------------------------------------------------------------------------


class Target(ABC):
    """Target of a copy."""

    takes_documents = False
    format: str | None = None
    """Format of a file that has one, apart from GODB."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def exists(self) -> bool:
        """Return whether the target exists."""

    @abstractmethod
    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""

    def size(self) -> int | None:
        """Return the size of the target in bytes, if known."""
        return None

    def refuse_existing(self) -> TargetExists:
        """Return the error for a target that exists, with ``if_exists="error"``."""
        return TargetExists(
            "the target exists already", advice='use if_exists="append", "replace" or "upsert"'
        )

    def refuse(self, if_exists: IfExists, advice: str) -> InvalidOption:
        """Return the error for a value of ``if_exists`` that the target does not support."""
        return InvalidOption(f"{self.name} does not support if_exists={if_exists!r}", advice=advice)
