"""Immutable base of a collection: the documents of its file, and their positions."""

from __future__ import annotations

import copy
import itertools
import logging
import threading
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows, no_rows
from godb_arrow.codec.runs import Run
from godb_arrow.documents.ids import ids_of, pack_wanted
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.locate import StoredCollection, join_summary, locate
from godb_arrow.file.pieces import CollectionPieces
from godb_arrow.memory.limit import Counted, Memory
from godb_arrow.options import ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.query.projection import Projection
from godb_arrow.schema import (
    DocumentSummary,
    infer_schema,
    is_partial,
    needs_review,
    reviewed,
)
from godb_arrow.snapshots.held import Documents
from godb_arrow.snapshots.id_index import IdIndex
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import HeldFile

__all__ = ["Base", "Located", "Pin", "Wanted", "replaced"]


logger = logging.getLogger(__name__)

Located: TypeAlias = Iterator[tuple[str, int, codec.Entries, int]]
"""Id, row, run and index in the run of each document."""
Wanted: TypeAlias = Sequence[Any]
"""Pieces needed of a file; for several files, such a sequence for each, or all or nothing of it."""

_NUMBERS = itertools.count(1)


class Pin:
    """Reference that keeps the file of a base open until it is collected.

    Attributes
    ----------
    file : HeldFile or None
        The open file.
    """

    def __init__(self, file: HeldFile | None = None) -> None:
        self.file = file


class Base:
    """Documents of a collection's file, or no documents; immutable.

    The file is opened at first use. A pin keeps it open, so that it can be replaced or removed
    meanwhile. The most recently used files without a pin stay open.

    Parameters
    ----------
    memory : Memory
        Cache for what is read, as far as there is room.
    path : str, optional
        Path of the file; the base is empty without one.
    name : str, optional
        Name of the collection in the file; None if the file has only one.
    is_ours : bool
        Whether no other process replaces the file.
    may_close : bool, optional
        Whether the file may be closed and opened again. By default it may, if it is local and ours.
        A file of another process is compared with the one that was open before.
    hold : callable
        Function that opens the file at a path. By default the path or URL is the user's choice.
    refusal : GodbError, optional
        Error to raise instead of opening the file, which must not be opened.
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
        self._documents_key = (self._key, "documents")
        self._views: set[str] = set()  # kinds of cached views
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._file: HeldFile | None = None
        self._known_file: weakref.ref[HeldFile] | None = None  # valid while any pin exists
        self._identity: object = None  # of the file as it was first opened
        self._stored: StoredCollection | None = None
        self._count: int | None = 0 if path is None else None
        self._least_size = 0  # bytes of documents that exceeded the available memory
        self._schema: pa.Schema | None = None
        self._summary: DocumentSummary | None = None

    # --- the file -----------------------------------------------------------------------------

    def open(self) -> StoredCollection:
        """Return the collection in its file, after opening the file.

        Raises
        ------
        SourceNotFound
            The file does not exist, or another process replaced it since it was first opened.
        """
        if self.refusal is not None:
            raise copy.copy(self.refusal)
        with self._lock:
            file = self._open_file()
            stored = self._stored
            if stored is None or stored.source is not file:
                stored = locate(file, self._name, self._options)
                if not self.memory.use_hints:
                    stored = stored.without_records()
                self._stored = stored
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
        """Check that a reopened file is the one that was open before.

        Raises
        ------
        SourceNotFound
            Another process replaced the file.
        """
        identity = file.identity()
        if self._identity not in (None, identity):
            raise replaced(file.name)
        self._identity = identity

    def _note_use(self) -> None:
        """Count the file among those that are closed when others are used."""
        if self.memory.is_closed:  # Streams of a closed engine have pinned their files.
            self.close_if_idle()
        elif self._may_close and self.memory.files.get(self._key) is None:
            self.memory.files.put(self._key, self, 1)

    def close_if_idle(self) -> None:
        """Close the file, unless a pin keeps it open."""
        with self._lock:
            self._file = self._stored = None

    def has_same_files(self, other: Base) -> bool:
        """Return whether this is the base of the same files, though they could not be opened."""
        return self.path == other.path and self._may_close is False

    @property
    def is_refused(self) -> bool:
        """Whether the file must not be opened."""
        return self.refusal is not None

    @property
    def hint(self) -> CollectionHint:
        """Hint that the file records."""
        if self.path is None:
            return CollectionHint(0, plain=True)
        return self.open().hint or CollectionHint(self.count)

    @property
    def count(self) -> int:
        """Number of documents in the file, including deleted ones."""
        if self._count is None:
            self._count = self.open().count
        return self._count

    @property
    def deleted(self) -> Rows:
        """Rows that are marked as deleted; a single file has none."""
        return no_rows()

    def deleted_set(self) -> codec.RowSet | None:
        """Return all deleted rows as a set, or None if no row is deleted."""
        return None

    @property
    def live(self) -> int:
        """Number of documents that are not deleted."""
        return self.count - len(self.deleted)

    def files(self) -> list[tuple[int, Base]]:
        """Return each file, with the row of its first document."""
        return [(0, self)]

    def selected(self, wanted: Wanted | None) -> Iterator[tuple[int, Base, Wanted | None]]:
        """Yield the needed files with their first row and their needed pieces (None for all)."""
        yield 0, self, wanted

    @property
    def file_size(self) -> int:
        """Size of the file in bytes."""
        return 0 if self.path is None else self.open().source.size() or 0

    def access(self) -> Access:
        """Return the permissions that the file grants."""
        source = None if self.path is None else self.open().source
        return source.access() if isinstance(source, HeldFile) else UNLIMITED

    @property
    def modified(self) -> float | None:
        """Time of the last change of the file in seconds since 1970, or None if it is unknown."""
        return None if self.path is None else self.open().source.modified()

    # --- views in memory ----------------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self.path is None or self._documents_key in self.memory.cache

    @property
    def is_loading(self) -> bool:
        """Whether a thread is reading the documents into memory."""
        return self._loading.locked()

    @property
    def number(self) -> int:
        """Number that no other base of this process has."""
        return self._key

    def forget(self, successor: Base | None = None) -> None:
        """Release the cached views, except those that a successor shares.

        The file is closed as soon as no stream reads it.
        """
        self.memory.files.remove(self._key)
        self.close_if_idle()
        for kind in list(self._views):
            self._views.discard(kind)
            self.memory.cache.remove((self._key, kind))

    def held_bytes(self) -> int:
        """Return the bytes of the cached views."""
        return sum(self.memory.cache.size_of((self._key, kind)) for kind in list(self._views))

    def held_documents(self) -> Documents | None:
        """Return the documents, if they are in memory already."""
        held: Documents | None = self.memory.cache.get(self._documents_key)
        return held

    def documents(self) -> Documents | None:
        """Return the documents in memory, or None if there is no room for them."""
        documents: Documents | None = self.memory.cache.get(self._documents_key)
        if documents is not None:
            return documents
        if self.path is None:
            return Documents([])
        if max(self.hint.size or 0, self._least_size) > self.memory.room:
            return None
        with self._loading:
            documents = self.memory.cache.get(self._documents_key)
            return documents or self._load()

    def _load(self) -> Documents | None:
        runs = []
        size = 0
        for run in self.open().entries():
            runs.append(run)
            size += run.nbytes
            if size > self.memory.room:
                self._least_size = size
                return None
        documents = Documents(runs)
        self.hold("documents", documents, documents.nbytes)
        logger.debug("loaded %s: %d documents, %d bytes", self.path, self.count, documents.nbytes)
        return documents

    def runs(self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()) -> Iterator[Run]:
        """Yield the documents in runs, which the caller loads.

        Pieces that are not `wanted` may be skipped. The `fields` are decoded first.
        """
        if self.path is None:
            return
        held: Documents | None = self.memory.cache.get(self._documents_key)
        if held is None:
            yield from self.open().runs(fields, wanted)
        else:
            yield from map(Run.of, held.runs, held.starts)

    def loaded(self, wanted: Wanted | None = None) -> Iterator[tuple[int, codec.Entries]]:
        """Yield the loaded runs of :meth:`runs`, each with the row of its first document."""
        if self.path is None:
            return
        if self._documents_key in self.memory.cache:
            yield from ((run.start, run.load()) for run in self.runs(wanted))
        else:
            yield from _loaded_ahead(self.runs(wanted), self.open().ahead(), self.memory)

    def ids(self) -> IdIndex:
        """Return the index of document ids."""
        key = (self._key, "ids")
        index: IdIndex | None = self.memory.cache.get(key)
        if index is None:
            threads = self.open().threads() if self.path else 1
            ids = ordered_map(lambda run: ids_of(run.load()), self.runs(), threads)
            index = IdIndex.build(ids)
            self.hold("ids", index, index.nbytes)
        return index

    def prepare_ids(self) -> None:
        """Load the index of document ids into memory."""
        if self.path is not None:
            self.ids()

    def max_id(self) -> int:
        """Return the max number among the ids."""
        return self.ids().greatest

    def pieces(self) -> CollectionPieces | None:
        """Return the pieces of the file, or None if it has no valid index of them."""
        return None if self.path is None else self.open().pieces()

    def pieces_matching(self, projection: Projection) -> Wanted | None:
        """Return which pieces may have documents that match a filter, or None for all."""
        return None if self.path is None else self.open().pieces_matching(projection)

    def view(self, kind: str) -> Any:
        """Return a cached view of a kind, or None."""
        return self.memory.cache.get((self._key, kind))

    def hold(self, kind: str, value: Any, size: int) -> None:
        """Cache a view of this base, as long as there is room."""
        self._views.add(kind)
        self.memory.hold((self._key, kind), value, size)

    # --- documents ----------------------------------------------------------------------------

    def rows_of(self, ids: Collection[str]) -> dict[str, list[int]]:
        """Return the rows of ids that exist; files of others may have several for one."""
        rows_by_id: dict[str, list[int]] = {}
        for identity, row, _, _ in self._located(ids):
            rows_by_id.setdefault(identity, []).append(row)
        return rows_by_id

    def find_all(self, ids: Collection[str]) -> dict[str, tuple[list[int], bytes]]:
        """Return the rows of the given ids that exist, and the document in the last row of each."""
        located: dict[str, tuple[list[int], bytes]] = {}
        for identity, row, run, index in self._located(ids):
            rows, _ = located.get(identity, ([], b""))
            located[identity] = ([*rows, row], run.document(index))
        return located

    def _located(self, ids: Collection[str]) -> Located:
        """Yield id, row, run and index in the run of the documents with given ids, in order."""
        return self._located_packed(pack_wanted(ids), frozenset(ids)) if ids else iter(())

    def _located_packed(self, packed: pa.Array, wanted: frozenset[str]) -> Located:
        """Locate ids that were packed once for all files; see :meth:`_located`."""
        found = None if self.path is None else self.ids().candidates(packed)
        if found is None or not len(rows := _existing(found, self.count)):
            return
        for row, (run, index) in zip(rows.tolist(), self.entries_at(rows), strict=True):
            identity = run.id(index)
            if identity in wanted:  # Other ids may have the same hash.
                yield identity, row, run, index

    def has(self, identity: str) -> bool:
        """Return whether a document with an id exists."""
        if self.path is None or not self.ids().search().may_have(identity):
            return False
        return self.find(identity) is not None

    def find(self, identity: str) -> bytes | None:
        """Return the bytes of a document, of which the last counts if the id is repeated."""
        documents, ids = self.documents(), self.ids()
        if documents is not None:
            return ids.search().find(documents.located, identity)
        matches = [run.document(index) for _, _, run, index in self._located([identity])]
        return matches[-1] if matches else None

    def find_held(self, identity: str) -> bytes | bool | None:
        """Return the bytes of a document; False where documents and ids are not all in memory."""
        get = self.memory.cache.get
        documents: Documents | None = get(self._documents_key)
        if documents is None:
            return None if self.path is None else False
        ids: IdIndex | None = get((self._key, "ids"))
        return False if ids is None else ids.search().find(documents.located, identity)

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """Yield the runs that have given rows, in order, with the index of each row in its run."""
        documents = self.documents()
        if documents is not None:
            yield from documents.entries_at(rows)
            return
        at = 0
        for run in self.open().runs(wanted=self.open().pieces_with(rows)):
            entries = run.load()
            while at < len(rows) and rows[at] < run.start + len(entries):
                yield entries, int(rows[at]) - run.start
                at += 1
            if at == len(rows):
                return

    # --- schema -------------------------------------------------------------------------------

    def summary(self) -> DocumentSummary:
        """Return the summary of the documents."""
        if self._summary is None:
            summary = self._new_summary()
            self._summarize(summary)
            self._summary = summary
        return self._summary

    def _new_summary(self) -> DocumentSummary:
        """Return an empty summary, which keeps the fields of the recorded schema."""
        recorded = self.hint.schema
        is_wide = recorded is not None and is_partial(recorded)
        return DocumentSummary(recorded.names if recorded is not None and is_wide else ())

    def _summarize(self, summary: DocumentSummary) -> None:
        def infer(run: Run) -> tuple[codec.Entries, DocumentSummary]:
            entries, own = run.load(), DocumentSummary()
            codec.infer(entries, own)
            return entries, own

        threads = self.open().threads() if self.path else 1
        for entries, own in ordered_map(infer, self.runs(), threads):
            join_summary(summary, own, entries)

    def join_into(self, summary: DocumentSummary) -> None:
        """Merge the kinds of values in the documents into a summary.

        If there are more fields than a summary keeps, the given summary decides which.
        """
        if self.summary().is_partial:
            self._summarize(summary)
        else:
            summary.merge(self.summary())

    def schema(self) -> pa.Schema:
        """Return the schema of the documents."""
        if self._schema is None:
            recorded = self.hint.schema
            if recorded is None:
                self._schema = infer_schema(self.summary())
            else:
                is_final = not needs_review(recorded)
                self._schema = recorded if is_final else reviewed(recorded, self.summary())
        return self._schema


def _loaded_ahead(
    runs: Iterator[Run], threads: int, memory: Memory
) -> Iterator[tuple[int, codec.Entries]]:
    """Load runs on threads, and count those that wait."""

    def load(run: Run) -> tuple[int, codec.Entries, Counted]:
        entries = run.load()
        return run.start, entries, Counted(memory, streams=entries.nbytes)

    for start, entries, waiting in ordered_map(load, runs, threads, 1, memory.may_read_ahead):
        waiting.release()
        yield start, entries
        del entries


def _existing(rows: Rows, count: int) -> Rows:
    """Return rows, given in order, without those that an id file invented."""
    return rows[np.searchsorted(rows, 0) : np.searchsorted(rows, count)]


def replaced(path: str) -> SourceNotFound:
    """Return the error for a file that another process removed or replaced while it was read."""
    error = SourceNotFound(
        "another process removed or replaced the file while the collection was read",
        advice="read the collection again, which opens its current files; if one is still "
        "missing, restore it from a backup",
    )
    error.operation, error.source = "read", path
    return error
