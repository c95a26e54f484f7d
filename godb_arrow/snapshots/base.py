"""The immutable side of a collection: the documents of its file, and where each is."""

from __future__ import annotations

import copy
import itertools
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.documents.ids import ids_of, pack_ids
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.locate import StoredCollection, join_summary, locate
from godb_arrow.file.pieces import CollectionPieces
from godb_arrow.memory.limit import Memory
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.query.projection import Projection
from godb_arrow.schema import DocumentSummary, infer_schema, is_partial
from godb_arrow.snapshots.id_index import NO_ROWS, IdIndex, Rows
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import HeldFile

__all__ = ["Base", "Documents", "Pin", "Wanted", "replaced"]


Wanted: TypeAlias = Sequence[Any]
"""Which of a file's pieces are needed; of several files, of each either that, or all or nothing."""

_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Documents:
    """The entries of a base, in memory.

    Attributes
    ----------
    runs : list of Entries
        In order.
    starts : list of int
        The row of each run's first document.
    """

    runs: list[codec.Entries]
    starts: list[int]

    @property
    def nbytes(self) -> int:
        """Bytes that they hold."""
        return sum(len(run.data) + 8 * len(run.bounds) for run in self.runs)

    def locate(self, row: int) -> tuple[codec.Entries, int]:
        """The run that has a row, and its index there."""
        run = bisect_right(self.starts, row) - 1
        return self.runs[run], row - self.starts[run]


class Pin:
    """Keeps the file of a base open until the pin is collected.

    Attributes
    ----------
    file : HeldFile or None
        The open file.
    """

    def __init__(self, file: HeldFile | None = None) -> None:
        self.file = file


class Base:
    """The documents of a collection's file, or none; immutable.

    The file is opened at first use. A pin keeps it open, so that it can be replaced or removed
    meanwhile. Of the files without a pin, those used last stay open.

    Parameters
    ----------
    memory : Memory
        Holds what is read, as far as there is room.
    path : str, optional
        The file; without one the base is empty.
    name : str, optional
        The collection's name in the file; None where the file has one only.
    is_ours : bool
        Whether no other process replaces the file.
    may_close : bool, optional
        Whether the file may be closed and opened again; by default, where it is local and ours.
        A file of another process is compared with the one that was open before.
    hold : callable
        Opens the file, given its path. Default: a path or URL that the user chose.
    refusal : GodbError, optional
        Raised in place of opening the file, which must not be opened.
    """

    def __init__(
        self,
        memory: Memory,
        path: str | None = None,
        name: str | None = None,
        *,
        is_ours: bool = True,
        may_close: bool | None = None,
        hold: Callable[[str], HeldFile] = HeldFile.hold,
        refusal: GodbError | None = None,
    ) -> None:
        self.path = path
        self.refusal = refusal
        self._hold = hold
        self.is_ours = is_ours
        if may_close is None:
            may_close = is_ours and path is not None and not is_url(path)
        self._may_close = may_close
        self._name = name
        self._options = ReadOptions(
            batch_bytes=memory.run_bytes,
            threads=memory.threads,
            max_document_bytes=memory.max_document_bytes,
        )
        self.memory = memory
        self._key = next(_NUMBERS)
        self._views: set[str] = set()  # kinds of what was put into the cache
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._file: HeldFile | None = None
        self._known_file: weakref.ref[HeldFile] | None = None  # also while only pins hold it
        self._identity: object = None  # of the file that was opened first
        self._stored: StoredCollection | None = None
        self._count: int | None = 0 if path is None else None
        self._least_size = 0  # of the documents, seen when they did not fit
        self._schema: pa.Schema | None = None
        self._summary: DocumentSummary | None = None

    # --- the file -----------------------------------------------------------------------------

    def open(self) -> StoredCollection:
        """Return the collection in its file, which is open from now on.

        Raises
        ------
        SourceNotFound
            There is no such file, or another process replaced it since it was opened first.
        """
        if self.refusal is not None:
            raise copy.copy(self.refusal)
        with self._lock:
            file = self._open_file()
            stored = self._stored
            if stored is None or stored.source is not file:
                stored = self._stored = locate(file, self._name, self._options)
        self._note_use()
        return stored

    def pin(self) -> Pin:
        """Keep the file open until the pin is collected."""
        if self.path is None:
            return Pin()
        with self._lock:
            pin = Pin(self._open_file())
        self._note_use()
        return pin

    @property
    def is_open(self) -> bool:
        """Whether the file is open."""
        return self._known_file is not None and self._known_file() is not None

    def _open_file(self) -> HeldFile:
        """Return the open file; the caller holds the lock."""
        assert self.path is not None
        file = self._file
        if file is None and self._known_file is not None:
            file = self._known_file()
        if file is None:
            if self.refusal is not None:
                raise copy.copy(self.refusal)
            file = self.memory.opened(self._hold(self.path))
            if not self.is_ours:
                self._check_same(file)
            self._known_file = weakref.ref(file)
        self._file = file
        return file

    def _check_same(self, file: HeldFile) -> None:
        """Raise unless a file that was opened again is the one that was open before.

        Raises
        ------
        SourceNotFound
        """
        identity = file.identity()
        if self._identity not in (None, identity):
            raise replaced(file.name)
        self._identity = identity

    def _note_use(self) -> None:
        """Count the file among those that may be closed when others are used."""
        if self.memory.is_closed:  # what is still read of a closed engine is pinned
            self.close_if_idle()
        elif self._may_close and self.memory.files.get(self._key) is None:
            self.memory.files.put(self._key, self, 1)

    def close_if_idle(self) -> None:
        """Close the file unless it is pinned: a pin holds the open file itself."""
        with self._lock:
            self._file = self._stored = None

    def has_same_files(self, other: Base) -> bool:
        """Return whether another base, whose file could not be opened, is no other than this."""
        return self.path == other.path and self._may_close is False

    @property
    def is_refused(self) -> bool:
        """Whether the file must not be opened."""
        return self.refusal is not None

    @property
    def hint(self) -> CollectionHint:
        """What the file records."""
        if self.path is None:
            return CollectionHint(0, plain=True)
        return self.open().hint or CollectionHint(self.count)

    @property
    def count(self) -> int:
        """How many documents it has."""
        if self._count is None:
            self._count = self.open().count
        return self._count

    @property
    def deleted(self) -> Rows:
        """The rows that the file says are no more: a single file has none."""
        return NO_ROWS

    @property
    def live(self) -> int:
        """How many documents are left."""
        return self.count - len(self.deleted)

    def files(self) -> list[tuple[int, Base]]:
        """The row of each file's first document, and the file."""
        return [(0, self)]

    def selected(self, wanted: Wanted | None) -> Iterator[tuple[int, Base, Wanted | None]]:
        """The files that are needed: first row, file, and what of it (all with None)."""
        yield 0, self, wanted

    @property
    def file_size(self) -> int:
        """Bytes of the file."""
        return 0 if self.path is None else self.open().source.size() or 0

    def access(self) -> Access:
        """Return the permissions that the file grants."""
        source = None if self.path is None else self.open().source
        return source.access() if isinstance(source, HeldFile) else UNLIMITED

    @property
    def modified(self) -> float | None:
        """When the file was written, where that is known."""
        return None if self.path is None else self.open().source.modified()

    # --- what is held in memory ---------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self.path is None or self._documents_key in self.memory.cache

    @property
    def is_loading(self) -> bool:
        """Whether the documents are being read into memory."""
        return self._loading.locked()

    @property
    def _documents_key(self) -> tuple[int, str]:
        return self._key, "documents"

    def forget(self, successor: Base | None = None) -> None:
        """Give up what is held in memory, but for what a successor has, too.

        The file is closed when nobody reads it.
        """
        self.memory.files.remove(self._key)
        self.close_if_idle()
        for kind in list(self._views):
            self._views.discard(kind)
            self.memory.cache.remove((self._key, kind))

    def held_bytes(self) -> int:
        """Bytes that are held in memory."""
        return sum(self.memory.cache.size_of((self._key, kind)) for kind in list(self._views))

    def documents(self) -> Documents | None:
        """The documents in memory; None when there is no room for them."""
        found: Documents | None = self.memory.cache.get(self._documents_key)
        if found is not None:
            return found
        if self.path is None:
            return Documents([], [])
        if max(self.hint.size or 0, self._least_size) > self.memory.room:
            return None
        with self._loading:
            found = self.memory.cache.get(self._documents_key)
            return found or self._load()

    def _load(self) -> Documents | None:
        documents = Documents([], [])
        rows = size = 0
        for run in self.open().entries():
            documents.starts.append(rows)
            documents.runs.append(run)
            rows += len(run)
            size += len(run.data) + 8 * len(run.bounds)
            if size > self.memory.room:
                self._least_size = size
                return None
        self.hold("documents", documents, documents.nbytes)
        return documents

    def runs(self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()) -> Iterator[Run]:
        """The documents in runs, to be loaded by whoever works on them.

        Of the file's pieces, those that are not wanted may be left out. Some fields are those that
        are looked at first.
        """
        if self.path is None:
            return
        held: Documents | None = self.memory.cache.get(self._documents_key)
        if held is None:
            yield from self.open().runs(fields, wanted)
        else:
            yield from map(Run.of, held.runs, held.starts)

    def loaded(self, wanted: Wanted | None = None) -> Iterator[tuple[int, codec.Entries]]:
        """The entries in runs, as :meth:`runs` has them, and the row of each run's first."""
        if self.path is None:
            return
        ahead = 1 if self._documents_key in self.memory.cache else self.open().ahead()
        yield from ordered_map(lambda run: (run.start, run.load()), self.runs(wanted), ahead)

    def ids(self) -> IdIndex:
        """Where the ids are."""
        key = (self._key, "ids")
        found: IdIndex | None = self.memory.cache.get(key)
        if found is None:
            threads = self.open().threads() if self.path else 1
            ids = ordered_map(lambda run: ids_of(run.load()), self.runs(), threads)
            found = IdIndex.build(ids)
            self.hold("ids", found, found.nbytes)
        return found

    def prepare_ids(self) -> None:
        """Have the index of ids at hand."""
        if self.path is not None:
            self.ids()

    def greatest_id(self) -> int:
        """The greatest id that is a number."""
        return self.ids().greatest

    def pieces(self) -> CollectionPieces | None:
        """The pieces of the file, where there are any that can be used."""
        return None if self.path is None else self.open().pieces()

    def pieces_matching(self, projection: Projection) -> Wanted | None:
        """Which pieces may have documents that a filter keeps; None when it could be any."""
        return None if self.path is None else self.open().pieces_matching(projection)

    def view(self, kind: str) -> Any:
        """Something else that is held in memory for this base, or None."""
        return self.memory.cache.get((self._key, kind))

    def hold(self, kind: str, value: Any, size: int) -> None:
        """Hold something in memory for this base, as long as there is room."""
        self._views.add(kind)
        self.memory.hold((self._key, kind), value, size)

    # --- documents ----------------------------------------------------------------------------

    def rows_of(self, ids: Collection[str]) -> dict[str, list[int]]:
        """The rows of those of some ids that it has: of each one, but for files of others."""
        found: dict[str, list[int]] = {}
        for identity, row, _, _ in self._located(ids):
            found.setdefault(identity, []).append(row)
        return found

    def find_all(self, ids: Collection[str]) -> dict[str, tuple[list[int], bytes]]:
        """The rows of those of some ids that it has, and the document in the last one of each."""
        found: dict[str, tuple[list[int], bytes]] = {}
        for identity, row, run, index in self._located(ids):
            rows = found[identity][0] if identity in found else []
            found[identity] = ([*rows, row], run.document(index))
        return found

    def _located(self, ids: Collection[str]) -> Iterator[tuple[str, int, codec.Entries, int]]:
        """Id, row, run and index there of the documents that have some ids, in order."""
        if self.path is None or not ids:
            return
        rows = self.ids().candidates(pack_ids(ids))
        if not len(rows):
            return
        wanted = frozenset(ids)
        for row, (run, index) in zip(rows.tolist(), self.entries_at(rows), strict=True):
            identity = run.id(index)
            if identity in wanted:  # else another id has the same hash
                yield identity, row, run, index

    def has(self, identity: str) -> bool:
        """Whether there is a document with an id."""
        if self.path is None or not len(self.ids().candidates_of(identity)):
            return False
        return self.find(identity) is not None

    def find(self, identity: str) -> bytes | None:
        """The bytes of a document; of several with that id the last."""
        documents = self.documents()
        rows = self.ids().candidates_of(identity)
        if documents is None:
            found = [run.document(i) for run, i in self.entries_at(np.sort(rows))
                     if run.id(i) == identity]  # fmt: skip
            return found[-1] if found else None
        for row in rows[::-1].tolist():
            run, index = documents.locate(row)
            if run.id(index) == identity:
                return run.document(index)
        return None

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """The runs that have some rows, given in order, and the index of each there."""
        documents = self.documents()
        if documents is not None:
            yield from (documents.locate(int(row)) for row in rows)
            return
        at = 0
        for run in self.open().runs(wanted=self.open().pieces_with(rows)):
            entries = run.load()
            while at < len(rows) and rows[at] < run.start + len(entries):
                yield entries, int(rows[at]) - run.start
                at += 1
            if at == len(rows):
                return

    # --- its schema ---------------------------------------------------------------------------

    def summary(self) -> DocumentSummary:
        """The kinds of value in its documents."""
        if self._summary is None:
            summary = self._new_summary()
            self._summarize(summary)
            self._summary = summary
        return self._summary

    def _new_summary(self) -> DocumentSummary:
        """An empty summary, which keeps the fields that the recorded schema has."""
        recorded = self.hint.schema
        is_wide = recorded is not None and is_partial(recorded)
        return DocumentSummary(recorded.names if recorded is not None and is_wide else ())

    def _summarize(self, summary: DocumentSummary) -> None:
        def infer(run: Run) -> tuple[codec.Entries, DocumentSummary]:
            entries, found = run.load(), DocumentSummary()
            codec.infer(entries, found)
            return entries, found

        threads = self.open().threads() if self.path else 1
        for entries, found in ordered_map(infer, self.runs(), threads):
            join_summary(summary, found, entries)

    def join_into(self, summary: DocumentSummary) -> None:
        """Join the kinds of value in its documents into a summary.

        Of more fields than are kept, the summary decides which.
        """
        if self.summary().is_partial:
            self._summarize(summary)
        else:
            summary.merge(self.summary())

    def schema(self) -> pa.Schema:
        """The schema of its documents."""
        if self._schema is None:
            recorded = self.hint.schema
            self._schema = infer_schema(self.summary()) if recorded is None else recorded
        return self._schema


def replaced(path: str) -> SourceNotFound:
    """Return the error of a reader whose file another process removed or replaced."""
    error = SourceNotFound(
        "another process removed or replaced the file while the collection was read",
        advice="read the collection again: the next read uses its current files; if one is still "
        "missing, restore it from a backup",
    )
    error.operation, error.source = "read", path
    return error
