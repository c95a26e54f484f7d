"""Documents in memory, in runs."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.snapshots.index_names import keys_builder

__all__ = ["Documents", "UnsavedDocuments", "keys_of"]


class Documents:
    """Entries in memory.

    Parameters
    ----------
    runs : list of Entries
        Runs of entries, in order.

    Attributes
    ----------
    runs : list of Entries
        The runs.
    starts : list of int
        Row of each run's first document.
    located : Located
        The documents by row, for searches.
    """

    __slots__ = ("located", "runs", "starts")

    def __init__(self, runs: list[codec.Entries]) -> None:
        self.runs = runs
        self.starts: list[int] = []
        rows = 0
        for run in runs:
            self.starts.append(rows)
            rows += len(run)
        self.located = codec.Located(runs)

    def __len__(self) -> int:
        return len(self.located)

    @property
    def nbytes(self) -> int:
        """Size of the entries in bytes."""
        return sum(run.nbytes for run in self.runs)

    def locate(self, row: int) -> tuple[codec.Entries, int]:
        """Return the run that has a row, and the row's index in it."""
        run = bisect_right(self.starts, row) - 1
        return self.runs[run], row - self.starts[run]

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """Yield the runs that have given rows, with the index of each row in its run."""
        return (self.locate(row) for row in rows.tolist())


class UnsavedDocuments(Documents):
    """Documents that are not saved yet, with their sorted keys by field.

    Attributes
    ----------
    key_bytes : int
        Bytes of the keys that were built.
    """

    __slots__ = ("_keys", "key_bytes")

    def __init__(self, runs: list[codec.Entries]) -> None:
        super().__init__(runs)
        self._keys: dict[str, codec.SortedKeys] = {}
        self.key_bytes = 0

    def keys(self, field: str) -> codec.SortedKeys:
        """Return the sorted keys of a field, built at the first use."""
        found = self._keys.get(field)
        if found is None:  # Several threads may build the same.
            found = self._keys[field] = keys_of(field, self.runs)
            self.key_bytes = sum(keys.nbytes for keys in [*self._keys.values()])
        return found


def keys_of(field: str, runs: Iterable[codec.Entries]) -> codec.SortedKeys:
    """Build the sorted keys of a field from documents, given in order."""
    builder = keys_builder(field)
    for entries in runs:
        builder.add(entries)
    found: codec.SortedKeys = builder.keys()
    return found
