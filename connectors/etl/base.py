"""Sources and targets of a copy, as protocols."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.documents.loading import load_run
from godb_arrow.errors import InvalidOption, TargetExists
from godb_arrow.query.filters import Filter

__all__ = ["Count", "Data", "Documents", "Mode", "Origin", "Target", "counted"]


Mode = Literal["error", "append", "overwrite", "upsert"]
Count = Callable[[int], Any]


class Documents:
    """Documents as they are stored, with their schema: what a GODB file takes byte by byte."""

    def __init__(self, schema: pa.Schema, runs: Iterator[codec.Entries]) -> None:
        self.schema = schema
        self._runs = runs

    def stored_entries(self) -> Iterator[codec.Entries]:
        """The documents, in runs; once."""
        return self._runs

    def __iter__(self) -> Iterator[dict[Any, Any]]:
        for run in self._runs:
            yield from load_run(run)


Data: TypeAlias = Documents | Iterator[dict[Any, Any]] | pa.RecordBatchReader


def counted(data: Data, count: Count) -> Data:
    """The same data, counted as it goes by."""

    def tallied(parts: Iterable[Any]) -> Iterator[Any]:
        for part in parts:
            yield part
            count(len(part))

    if isinstance(data, Documents):
        return Documents(data.schema, tallied(data.stored_entries()))
    if isinstance(data, pa.RecordBatchReader):
        return pa.RecordBatchReader.from_batches(data.schema, tallied(data))

    def documents() -> Iterator[dict[str, Any]]:
        for document in data:
            yield document
            count(1)

    return documents()


# --- where from -------------------------------------------------------------------------------


class Origin(ABC):
    """Where documents come from."""

    name: str

    def total(self) -> int | None:
        """How many documents there are, where that is known."""
        return None

    def conflicts(self) -> list[str]:
        """The fields of mixed types."""
        return []

    @abstractmethod
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Any:
        """The documents, or record batches of them, as a context."""


# --- where to ---------------------------------------------------------------------------------


class Target(ABC):
    """Where documents go."""

    takes_documents = False

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def exists(self) -> bool:
        """Whether it is there already."""

    @abstractmethod
    def write(self, data: Data, mode: Mode) -> None:
        """Write it all or nothing."""

    def size(self) -> int | None:
        """Bytes that it has, where that is known."""
        return None

    def refuse_existing(self) -> TargetExists:
        """Return the error for a target that exists, with mode "error"."""
        return TargetExists(
            "it is there already", advice='use mode="append", "overwrite" or "upsert"'
        )

    def refuse(self, mode: Mode, advice: str) -> InvalidOption:
        """The error for a mode that this target cannot do."""
        return InvalidOption(f"mode {mode!r} is not possible for {self.name}", advice=advice)
