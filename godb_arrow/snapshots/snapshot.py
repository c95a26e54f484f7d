"""Snapshot for readers: an immutable base, and a frozen overlay of changes to it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk, Rows, no_rows
from godb_arrow.codec.runs import Run
from godb_arrow.errors import GodbError
from godb_arrow.file.hints import JournalPosition
from godb_arrow.file.pieces import CollectionPieces, StoredPiece
from godb_arrow.parallel import ordered_map
from godb_arrow.query.schema_join import join_schemas, narrow_schema, types_of_replaced
from godb_arrow.query.statistics import Row, covered, decode_statistics, row_of
from godb_arrow.schema import DocumentSummary, fields_fit, infer_schema, is_partial
from godb_arrow.snapshots.base import Base, Wanted
from godb_arrow.snapshots.entry_runs import gather, kept_bytes, without
from godb_arrow.snapshots.overlay import Overlay

__all__ = ["Snapshot"]

_Part: TypeAlias = "tuple[codec.Entries | StoredPiece, Rows, Row | None]"
"""Documents, the superseded or deleted rows among them, and their statistics."""
_RUN_DOCUMENTS = 16_384
_IDS_AT_ONCE = 1024  # that are searched in the base


class Snapshot:
    """Collection at one moment, unaffected by later changes.

    Parameters
    ----------
    base : Base
        Base of the collection.
    overlay : Overlay
        Changes, which are frozen by this.
    count : int
        Number of documents.
    position : JournalPosition
        Last change of the journal that the snapshot contains.
    columns : pyarrow.Schema, optional
        Schema of a table without rows that was inserted, while there are no documents.

    Attributes
    ----------
    unsaved : FrozenOverlay
        The changes.
    changes : int
        Number of changes in the overlay.
    """

    def __init__(
        self,
        base: Base,
        overlay: Overlay,
        count: int,
        position: JournalPosition,
        columns: pa.Schema | None = None,
    ) -> None:
        self.base = base
        self._pin = base.pin()
        self.count = count
        self.position = position
        self.unsaved = overlay.freeze()
        self.changes = self.unsaved.changes
        self._schema = columns

    @property
    def is_clean(self) -> bool:
        """Whether the overlay has no changes."""
        return not self.unsaved.layers

    def superseded_rows(self) -> Rows:
        """Return the superseded and deleted rows of the base, in order."""
        return self.unsaved.superseded_rows(self.base)

    def superseded_in(self, start: int, count: int) -> Rows:
        """Return the superseded and deleted rows in a run of the base, counted from its start."""
        superseded = self.superseded_rows()
        first, last = np.searchsorted(superseded, (start, start + count))
        return superseded[first:last] - start

    def overlay_runs(self) -> list[codec.Entries]:
        """Return the entries of the changed documents, in runs."""
        return self.unsaved.runs()

    def overlay_parts(self) -> Iterator[codec.Entries]:
        """Yield the entries of the changed documents in runs of about 1 MiB."""
        for run in self.unsaved.runs():
            yield from run.split()

    def live_count(self) -> int:
        """Count the documents, and check the count.

        Raises
        ------
        GodbError
            The snapshot records another count.
        """
        changed = sum(len(run) for run in self.overlay_runs())
        count = self.base.count - len(self.superseded_rows()) + changed
        if count != self.count:  # Saving the snapshot could lose documents.
            raise GodbError(
                f"found {count} documents instead of the {self.count} that were counted",
                advice="nothing was written; this is an error of godb_arrow, so please report it",
            )
        return count

    def schema(self) -> pa.Schema:
        """Return the join of the schemas of all documents."""
        if self._schema is None:
            self._schema = self.unsaved.schema(self.base)
        if self._schema is None:
            self._schema = self._find_schema()
            self.unsaved.note_schema(self.base, self._schema)
        return self._schema

    def _find_schema(self) -> pa.Schema:
        declared = self._declared_schema()
        if declared is not None:
            return declared
        summary = DocumentSummary()
        for run in self.overlay_parts():
            codec.infer(run, summary)
        has_base = self.base.count > len(self.superseded_rows())
        schema = self.base.schema() if has_base else self._schema_of_replaced(summary)
        if summary.is_partial or (schema is not None and is_partial(schema)):
            return self._find_partial_schema(schema)
        if schema is not None and fields_fit(infer_schema(summary), schema):
            return schema
        declared = [bulk.schema for bulk in self.unsaved.bulks if bulk.schema is not None]
        return join_schemas(schema, declared, summary, self.overlay_runs, self._summarize)

    def _schema_of_replaced(self, summary: DocumentSummary) -> pa.Schema | None:
        """Return the types to keep where no document of the base is left; None without any.

        Changed documents keep their types, and the types of deleted documents are forgotten.
        """
        live = [key for key, version in self.unsaved.versions().items() if version is not None]
        if not self.base.count or summary.is_partial:
            return None
        for start in range(0, len(live), _IDS_AT_ONCE):
            if self.base.rows_of(live[start : start + _IDS_AT_ONCE]):
                return types_of_replaced(self.base.schema(), infer_schema(summary))
        return None

    def _summarize(self) -> DocumentSummary:
        """Join the kinds of value in all documents, with the fields of the base first."""
        joined = DocumentSummary()
        if self.base.count > len(self.superseded_rows()):
            self.base.join_into(joined)
        for run in self.overlay_runs():
            codec.infer(run, joined)
        return joined

    def _find_partial_schema(self, schema: pa.Schema | None) -> pa.Schema:
        """Return the schema of documents that have more fields than become columns."""
        if schema is None:
            return infer_schema(self._summarize())
        # Of too many fields, those are kept that were there before.
        summary = DocumentSummary(schema.names)
        for run in self.overlay_runs():
            codec.infer(run, summary)
        fits = fields_fit(infer_schema(summary), schema)
        return schema if fits else infer_schema(self._summarize())

    def settle_schema(self, dropped: Rows | None = None) -> pa.Schema:
        """Forget in the schema what only deleted documents had, before it is recorded.

        Parameters
        ----------
        dropped : array of int64, optional
            The deleted rows that the next files do not have, default all.
        """
        schema = self.schema()
        dead = self.superseded_rows() if dropped is None else dropped
        if len(dead) and self.base.count > len(dead):
            deleted = DocumentSummary()
            for start in range(0, len(dead), _RUN_DOCUMENTS):
                codec.infer(
                    gather(self.base.entries_at(dead[start : start + _RUN_DOCUMENTS])), deleted
                )
            self._schema = narrow_schema(schema, deleted, self._entries_changed_first)
        return self.schema()

    def _entries_changed_first(self) -> Iterator[codec.Entries]:
        yield from self.overlay_runs()
        for start, run in self.base.loaded():
            yield without(run, self.superseded_in(start, len(run)))

    def _declared_schema(self) -> pa.Schema | None:
        """Return the schema that all inserted tables had, or None if there were other inserts."""
        if self.is_clean:
            return self.base.schema()
        if any(layer.singles for layer in self.unsaved.layers):
            return None
        schemas = [bulk.schema for bulk in self.unsaved.bulks]
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
        """Yield all entries in runs: unchanged ones of the base, followed by changed ones.

        Pieces of the base that are not `wanted` may be skipped.
        """
        for start, run in self.base.loaded(wanted):
            yield without(run, self.superseded_in(start, len(run)))
        yield from self.overlay_parts()

    def runs(
        self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()
    ) -> Iterator[tuple[Run, Rows]]:
        """Yield all documents in runs that are loaded later, and the deleted ones among them.

        Parameters
        ----------
        wanted : sequence, optional
            Pieces of the base that are needed; all by default.
        fields : tuple of str
            Fields whose positions to record.
        """
        for run in self.base.runs(wanted, fields):
            yield run, self.superseded_in(run.start, run.documents)
        for entries in self.overlay_parts():
            yield Run.of(entries), no_rows()

    def chunks(
        self,
        files: Sequence[tuple[int, Base]] | None = None,
        *,
        changes: bool = True,
        every: int | None = None,
    ) -> Iterator[Chunk]:
        """Yield the bytes of entries in chunks, with their statistics.

        Pieces of a file whose documents are all unchanged are copied in compressed form.

        Parameters
        ----------
        files : sequence of tuples
            First row and base of the files to include; all by default.
        changes : bool
            Whether to include the changed documents.
        every : int, optional
            Number of documents after which a chunk ends, also after twice this number, and so on.

        Yields
        ------
        Chunk
        """
        fields = covered(self.schema())

        def give(part: _Part) -> Chunk:
            entries, superseded, row = part
            if isinstance(entries, StoredPiece):
                if row is not None and not len(superseded):
                    return entries.chunk(row)
                entries = entries.entries()
            if row is None:
                entries = without(entries, superseded)
                return Chunk(entries.raw(), len(entries), decode_statistics(entries, fields))
            return Chunk(kept_bytes(entries, superseded), len(entries) - len(superseded), row)

        threads = self.base.memory.threads if codec.BACKEND == "native" else 1
        parts = self._parts(self.base.files() if files is None else files, changes)
        if every is not None:
            parts = _cut_after(every, parts)
        chunks = ordered_map(give, parts, threads)
        return (chunk for chunk in chunks if chunk.documents)

    def _parts(self, files: Sequence[tuple[int, Base]], changes: bool) -> Iterator[_Part]:
        """Yield the documents in parts of about the size of a piece."""
        for start, file in files:
            pieces = file.pieces()
            if pieces is not None:
                yield from self._parts_of(file, start, pieces)
                continue
            for row, run in file.loaded():
                for part in run.split():
                    yield part, self.superseded_in(start + row, len(part)), None
                    row += len(part)
        if changes:
            for run in self.overlay_runs():
                yield from ((part, no_rows(), None) for part in run.split())

    def _parts_of(self, file: Base, start: int, pieces: CollectionPieces) -> Iterator[_Part]:
        # Statistics of a file that no engine and no incremental copy wrote may lie.
        is_known = self.base.hint.directory or self.base.hint.token
        statistics = pieces.statistics() if is_known else None
        rows = pieces.rows()
        with file.open().source.open() as stream:
            for index, piece in enumerate(pieces.stored(stream)):
                superseded = self.superseded_in(start + rows[index], pieces.documents[index])
                if len(superseded) < pieces.documents[index]:
                    yield (
                        piece,
                        superseded,
                        None if statistics is None else row_of(statistics, index),
                    )


def _cut_after(every: int, parts: Iterator[_Part]) -> Iterator[_Part]:
    """Cut parts where a multiple of a number of documents is reached."""
    room = every
    for entries, superseded, row in parts:
        while (live := len(entries) - len(superseded)) > room:
            if isinstance(entries, StoredPiece):
                entries, row = entries.entries(), None
            cut = int(np.delete(np.arange(len(entries)), superseded)[room])
            yield entries.between(0, cut), superseded[superseded < cut], row
            entries, superseded = (
                entries.between(cut, len(entries)),
                superseded[superseded >= cut] - cut,
            )
            room = every
        yield entries, superseded, row
        room = room - live or every
