"""Reports on files: their content, and the damage in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from godb_arrow.display import Table, plural, quantity, table_of
from godb_arrow.file.format import Header
from godb_arrow.file.hints import CollectionHint

__all__ = ["MAX_PROBLEMS", "CollectionReport", "FileReport", "Progress"]

MAX_PROBLEMS = 100
"""Number of problems, and of notes, above which a report has no more."""

Progress = Callable[[int], object]
"""Function that is called with a number of processed documents."""


@dataclass(slots=True)
class CollectionReport:
    """Content of a file about one collection.

    Attributes
    ----------
    name : str
        Name of the collection.
    count : int
        Number of documents.
    size : int
        Bytes of MessagePack, ids included.
    hint : CollectionHint or None
        Hint in the file's metadata.
    digest : int
        XXH3-64 of the MessagePack, if it was verified.
    """

    name: str
    count: int
    size: int = 0
    hint: CollectionHint | None = field(default=None, repr=False)
    digest: int = 0

    def _repr_html_(self) -> str:
        return table_of(
            f"collection {self.name}", {"documents": self.count, "size": quantity(self.size)}
        )


@dataclass(slots=True, repr=False)
class FileReport:
    """Content of a GODB file, and damage in it.

    Attributes
    ----------
    name : str
        Name of the file.
    size : int or None
        Size of the file in bytes.
    body_size : int
        Size of the decompressed body in bytes.
    header : Header or None
        Version and flags.
    checksum : bool
        Whether the file has a checksum.
    sealed : bool
        Whether the file ends with the checksums that godb_arrow writes.
    collections : list of CollectionReport
        Reports on collections, in the file's order.
    others : list of str
        Top-level keys other than the collections.
    problems : list of str
        Damage; empty for a valid file.
    notes : list of str
        Peculiarities that are no damage.
    """

    name: str
    size: int | None = None
    body_size: int = 0
    header: Header | None = None
    checksum: bool = False
    sealed: bool = False
    collections: list[CollectionReport] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        state = "valid" if self.ok else plural(len(self.problems), "problem")
        counts = ", ".join(f"{one.name!r}: {one.count:,}" for one in self.collections[:10])
        return f"<FileReport {self.name!r}, {state}, {{{counts}}}>"

    def _repr_html_(self) -> str:
        size = "" if self.size is None else f", {quantity(self.size)}"
        table = Table(["collection", "documents", "size"], f"{self.name}{size}")
        for collection in self.collections:
            table.add(collection.name, f"{collection.count:,}", quantity(collection.size))
        for problem in self.problems:
            table.add("problem", problem, "")
        for note in self.notes:
            table.add("note", note, "")
        return table.html()

    @property
    def ok(self) -> bool:
        """Whether no damage was found."""
        return not self.problems

    def add_problem(self, text: str) -> None:
        """Add damage to the report, up to a number of problems."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(text)
        elif len(self.problems) == MAX_PROBLEMS:
            self.problems.append("… and more")
