"""What a reader sees: an immutable base, and a frozen overlay of changes to it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.documents.ids import number_of
from godb_arrow.errors import GodbError
from godb_arrow.file.hints import JournalPosition
from godb_arrow.file.pieces import CollectionPieces, StoredPiece
from godb_arrow.parallel import ordered_map
from godb_arrow.query.statistics import Row, covered, decode_statistics, row_of
from godb_arrow.schema import DocumentSummary, fields_fit, infer_schema, is_partial
from godb_arrow.snapshots.base import Base, Wanted
from godb_arrow.snapshots.id_index import Rows
from godb_arrow.snapshots.overlay import Bulk, Overlay, Version, bulk_of, first_id

__all__ = ["Snapshot", "gather", "scan", "without"]


class Snapshot:
    """A collection as it was at one moment, whatever happens to it since.

    Parameters
    ----------
    base : Base
        Its file.
    overlay : Overlay
        The changes, which are frozen here.
    count : int
        How many documents there are.
    position : JournalPosition
        The journal's last change that is in it.

    Attributes
    ----------
    changes : int
        How many changes the overlay has.
    """

    def __init__(self, base: Base, overlay: Overlay, count: int, position: JournalPosition) -> None:
        self.base = base
        self._pin = base.pin()
        self.count = count
        self.position = position
        self._layers, self._bulks = overlay.freeze()
        self.changes = len(overlay)
        self._lock = threading.Lock()
        self._versions: dict[str, Version] | None = None
        self._runs: list[codec.Entries] | None = None
        self._schema: pa.Schema | None = None
        self._dead: Rows | None = None

    @property
    def is_clean(self) -> bool:
        """Whether there are no changes to the base."""
        return not self._layers

    def versions(self) -> dict[str, Version]:
        """The changed documents, in the order of their last change."""
        with self._lock:
            if self._versions is None:
                merged: dict[str, Version] = {}
                for layer in self._layers:
                    if not merged:
                        merged = dict(layer.versions)
                        continue
                    for identity, version in layer.versions.items():
                        merged.pop(identity, None)
                        merged[identity] = version
                self._versions = merged
            return self._versions

    def dead_rows(self) -> Rows:
        """The rows of the base that are no more, in order."""
        if self._dead is None:
            shadows = [row for layer in self._layers for row in layer.shadows]
            self._dead = np.union1d(self.base.deleted, np.array(shadows, np.int64))
        return self._dead

    def dead_in(self, start: int, count: int) -> Rows:
        """Those of them in a run of the base, counted from its start."""
        dead = self.dead_rows()
        first, last = np.searchsorted(dead, (start, start + count))
        return dead[first:last] - start

    def overlay_runs(self) -> list[codec.Entries]:
        """The entries of the changed documents, in runs."""
        versions = self.versions()
        with self._lock:
            if self._runs is None:
                ranges = [bulk for layer in self._layers for bulk in layer.ranges]
                self._runs = [*_range_runs(versions, ranges), *_runs_of(versions, self._bulks)]
            return self._runs

    def live_count(self) -> int:
        """How many documents there are, counted anew."""
        changed = sum(len(run) for run in self.overlay_runs())
        found = self.base.count - len(self.dead_rows()) + changed
        if found != self.count:  # writing it would lose documents
            raise GodbError(
                f"{found} documents were found where {self.count} were counted",
                advice="nothing was written; this is an error of godb_arrow: please report it",
            )
        return found

    def schema(self) -> pa.Schema:
        """The join of all documents."""
        if self._schema is None:
            self._schema = self._find_schema()
        return self._schema

    def _find_schema(self) -> pa.Schema:
        declared = self._declared_schema()
        if declared is not None:
            return declared
        summary = DocumentSummary()
        for run in self.overlay_runs():
            codec.infer(run, summary)
        if self.base.count == len(self.dead_rows()):
            return infer_schema(summary)
        schema = self.base.schema()
        if is_partial(schema):
            summary = DocumentSummary(schema.names)
            for run in self.overlay_runs():
                codec.infer(run, summary)
        if fields_fit(infer_schema(summary), schema):
            return schema
        # The base's fields come first: of too many, those are kept that were there before.
        joined = DocumentSummary()
        self.base.join_into(joined)
        if not summary.is_partial:
            joined.merge(summary)
            return infer_schema(joined)
        for run in self.overlay_runs():
            codec.infer(run, joined)
        return infer_schema(joined)

    def _declared_schema(self) -> pa.Schema | None:
        """The schema that all tables had that were inserted, if nothing else was."""
        if self.is_clean:
            return self.base.schema()
        if any(layer.singles for layer in self._layers):
            return None
        schemas = [bulk.schema for bulk in self._bulks]
        first = self.base.schema() if self.base.count else None
        for schema in schemas:
            if schema is None:
                return None
            if first is None:
                first = schema
            elif not schema.equals(first, check_metadata=True) and not fields_fit(schema, first):
                return None
        return first

    def entries(self, wanted: Wanted | None = None) -> Iterator[codec.Entries]:
        """All entries in runs: the base's without those that changed, then these.

        Of the base's pieces, those that are not wanted may be left out.
        """
        for start, run in self.base.loaded(wanted):
            yield without(run, self.dead_in(start, len(run)))
        yield from self.overlay_runs()

    def chunks(
        self,
        files: Sequence[tuple[int, Base]] | None = None,
        *,
        changes: bool = True,
        every: int | None = None,
    ) -> Iterator[Chunk]:
        """The bytes of entries, with statistics, which what did not change keeps.

        Pieces of a file of which no document changed are copied as they were compressed.

        Parameters
        ----------
        files : sequence of tuples
            First row and base of those files of the base that are taken; all, if left out.
        changes : bool
            Whether the changed documents follow.
        every : int, optional
            A chunk ends after so many documents, twice as many, and so on.

        Yields
        ------
        Chunk
        """
        fields = covered(self.schema())

        def give(part: _Part) -> Chunk:
            entries, dead, row = part
            if isinstance(entries, StoredPiece):
                if row is not None and not len(dead):
                    return entries.chunk(row)
                entries = entries.entries()
            if row is None:
                entries = without(entries, dead)
                return Chunk(entries.raw(), len(entries), decode_statistics(entries, fields))
            return Chunk(_kept(entries, dead), len(entries) - len(dead), row)

        threads = self.base.memory.threads if codec.BACKEND == "native" else 1
        parts = self._parts(self.base.files() if files is None else files, changes)
        if every is not None:
            parts = _cut_after(every, parts)
        chunks = ordered_map(give, parts, threads)
        return (chunk for chunk in chunks if chunk.documents)

    def _parts(self, files: Sequence[tuple[int, Base]], changes: bool) -> Iterator[_Part]:
        """The documents in parts, of about the size of a piece."""
        for start, file in files:
            pieces = file.pieces()
            if pieces is not None:
                yield from self._parts_of(file, start, pieces)
                continue
            for row, run in file.loaded():
                for part in run.split():
                    yield part, self.dead_in(start + row, len(part)), None
                    row += len(part)
        if changes:
            for run in self.overlay_runs():
                yield from ((part, _NO_ROWS, None) for part in run.split())

    def _parts_of(self, file: Base, start: int, pieces: CollectionPieces) -> Iterator[_Part]:
        statistics = pieces.statistics()
        rows = pieces.rows()
        with file.open().source.open() as stream:
            for index, piece in enumerate(pieces.stored(stream)):
                dead = self.dead_in(start + rows[index], pieces.documents[index])
                if len(dead) < pieces.documents[index]:
                    yield piece, dead, None if statistics is None else row_of(statistics, index)


_Part = tuple[codec.Entries | StoredPiece, Rows, Row | None]  # some rows are dead
_NO_ROWS: Rows = np.empty(0, np.int64)


def _cut_after(every: int, parts: Iterator[_Part]) -> Iterator[_Part]:
    """The same parts, cut in two where so many documents are reached."""
    room = every
    for entries, dead, row in parts:
        while (live := len(entries) - len(dead)) > room:
            if isinstance(entries, StoredPiece):
                entries, row = entries.entries(), None
            cut = int(np.delete(np.arange(len(entries)), dead)[room])
            yield entries.between(0, cut), dead[dead < cut], row
            entries, dead = entries.between(cut, len(entries)), dead[dead >= cut] - cut
            room = every
        yield entries, dead, row
        room = room - live or every


def without(entries: codec.Entries, dead: Rows) -> codec.Entries:
    """Entries without some of them."""
    return scan(bytes(_kept(entries, dead)), len(entries) - len(dead)) if len(dead) else entries


def _kept(entries: codec.Entries, dead: Rows) -> bytes | memoryview:
    """The bytes of entries without some of them."""
    if not len(dead):
        return entries.raw()
    bounds = np.frombuffer(entries.bounds, np.int64)
    edges = np.empty(2 * len(dead) + 2, np.int64)
    edges[0], edges[-1] = bounds[0], bounds[-1]
    edges[1:-1:2], edges[2:-1:2] = bounds[2 * dead], bounds[2 * dead + 2]
    view = memoryview(entries.data)
    return b"".join([view[first:last] for first, last in edges.reshape(-1, 2).tolist()])


def scan(data: bytes, count: int) -> codec.Entries:
    """Entries that are there whole, with their bounds."""
    return codec.scan_entries(data, 0, count, len(data) + 1, 0)


def gather(entries: Iterable[tuple[codec.Entries, int]]) -> codec.Entries:
    """Some entries of some runs, as one run."""
    pieces = [run.data[run.bounds[2 * i] : run.bounds[2 * i + 2]] for run, i in entries]
    return scan(b"".join(pieces), len(pieces))


_RUN = 16_384


def _range_runs(versions: dict[str, Version], ranges: list[Bulk]) -> Iterator[codec.Entries]:
    """The documents with generated ids that were inserted in bulk and not changed since."""
    if not ranges:
        return
    numbers = sorted(number for one in versions if (number := number_of(one)) is not None)
    changed = np.array(numbers, np.int64)
    for bulk in sorted(ranges, key=first_id):
        first = first_id(bulk)
        low, high = np.searchsorted(changed, (first, first + len(bulk.entries)))
        yield without(bulk.entries, changed[low:high] - first)


def _runs_of(versions: dict[str, Version], bulks: list[Bulk]) -> Iterator[codec.Entries]:
    """The documents of an overlay; neighbours that were inserted at once stay as they are."""
    pieces: list[bytes] = []
    first = after = -1  # rows of neighbours
    end = -1  # of their bulk
    for identity, version in versions.items():
        if isinstance(version, int):
            if version == after and version < end:
                after += 1
                continue
            if pieces:
                yield scan(b"".join(pieces), len(pieces))
                pieces = []
            if first >= 0:
                yield _neighbours(bulks, first, after)
            first, after = version, version + 1
            bulk = bulk_of(bulks, version)
            end = bulk.start + len(bulk.entries)
        elif version is not None:
            pieces.append(codec.pack(identity) + version)
            if first >= 0:
                yield _neighbours(bulks, first, after)
                first = after = -1
            if len(pieces) == _RUN:
                yield scan(b"".join(pieces), len(pieces))
                pieces = []
    if first >= 0:
        yield _neighbours(bulks, first, after)
    if pieces:
        yield scan(b"".join(pieces), len(pieces))


def _neighbours(bulks: list[Bulk], first: int, after: int) -> codec.Entries:
    bulk = bulk_of(bulks, first)
    return bulk.entries.between(first - bulk.start, after - bulk.start)
