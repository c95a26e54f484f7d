"""Decoding of the columns that a projection needs, filter first."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Rows
from godb_arrow.codec.predicate import Predicate
from godb_arrow.codec.reference.cells import width_of
from godb_arrow.codec.runs import Run
from godb_arrow.errors import TypeMismatch
from godb_arrow.options import OnMismatch
from godb_arrow.query.projection import Projection
from godb_arrow.query.selection import MAX_RECORDED_FIELDS, without_rows
from godb_arrow.schema import ID_FIELD

__all__ = ["ProjectionDecoder"]

_FILTERED_RESULTS_AHEAD = 4
_MIN_VALUES = 1 << 20  # of a batch with nulls, that a run may become without being split
_DOCUMENTS_PER_SPARSE_MATCH = 4  # with fewer matches, the matches are decoded on their own


class ProjectionDecoder:
    """Decoder of runs of documents for a projection.

    Where few documents of a run match the filter, only the filter's fields of the others are
    decoded.

    Parameters
    ----------
    projection : Projection
        Fields to decode.
    strict : bool
        Whether a field that the schema does not have is an error.
    on_mismatch : {"error", "null"}
        Treatment of a value that does not fit.
    exact : bool
        Whether a value that its type would round or change does not fit.
    is_guess : bool
        Whether the schema was inferred from some of the documents, and the others should tell if
        they need another one.
    """

    def __init__(
        self,
        projection: Projection,
        *,
        strict: bool,
        on_mismatch: OnMismatch,
        exact: bool,
        is_guess: bool = False,
    ) -> None:
        self._projection = projection
        self._plan = codec.plan_columns(
            projection.decoded,
            strict=strict,
            on_mismatch=on_mismatch,
            exact=exact,
            is_guess=is_guess,
        )
        self._width = sum(1 + width_of(column) for column in self._plan.columns)
        self._first: codec.DecodePlan | None = None
        self._predicate = projection.predicate
        filtered = [field for field in projection.decoded if field.name in projection.needed]
        if 0 < len(filtered) < len(projection.decoded):
            self._first = codec.plan_columns(
                pa.schema(filtered, metadata=projection.decoded.metadata),
                on_mismatch=on_mismatch,
                exact=exact,
            )

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields whose positions to record while documents are located; mostly empty."""
        if self._predicate is not None:
            names = self._predicate.fields
            return names if len(names) <= MAX_RECORDED_FIELDS else ()
        first = self._plan if self._first is None else self._first
        names = tuple(name for name in first.schema.names if name != ID_FIELD)
        return () if first.strict or len(names) > MAX_RECORDED_FIELDS else names

    @property
    def takes_unscanned(self) -> bool:
        """Whether documents are decoded while they are located, unless they need more work."""
        return self._predicate is None and self._first is None and not self.fields

    @property
    def ahead(self) -> int:
        """Number of results that may wait; filtered results are mostly small."""
        return 1 if self._projection.condition is None else _FILTERED_RESULTS_AHEAD

    def split(
        self, parts: Iterator[tuple[Run, Rows | None]], batch_bytes: int
    ) -> Iterator[tuple[Run, Rows | None]]:
        """Split runs whose batches would have many more bytes than their documents.

        One document with many fields makes the batch of a whole run wide. The nulls of the other
        documents then take more memory than the documents.

        Parameters
        ----------
        parts : iterator of tuples
            Runs, each with the indices of its deleted documents, if there are any.
        batch_bytes : int
            Limit of the values of a batch, nulls included.
        """
        rows = max(1, max(_MIN_VALUES, batch_bytes) // max(1, self._width))
        for run, deleted in parts:
            if run.documents <= rows:
                yield run, deleted
                continue
            entries = run.load()
            for start in range(0, len(entries), rows):
                end = min(start + rows, len(entries))
                own = deleted
                if deleted is not None:
                    first, last = np.searchsorted(deleted, (start, end))
                    own = deleted[first:last] - start
                yield Run.of(entries.between(start, end), run.start + start), own

    def whole(self, run: codec.Entries) -> pa.RecordBatch:
        """Decode all documents of a run, with the fields of the filter."""
        return codec.decode_batch(run, self._plan)

    def no_rows(self) -> Iterator[pa.RecordBatch]:
        """Yield a record batch without rows, if it has dictionaries, and thus categories."""
        if any(map(pa.types.is_dictionary, self._projection.schema.types)):
            yield self._projection.pick(self.whole(codec.Entries(b"", array("q", [0]))), None)

    def decode_run(self, run: Run, deleted: Rows | tuple[()] = ()) -> pa.RecordBatch:
        """Decode the requested columns of the documents of a run that match the filter.

        Where the sizes of the documents are known, the others are decoded only as far as the
        filter needs.

        Parameters
        ----------
        run : Run
            The documents.
        deleted : array of int64
            Indices of deleted documents, in order.
        """
        if self._predicate is not None:
            return self._select(run, self._predicate, deleted)
        if len(deleted):
            entries = run.load()
            return self.decode(codec.take(entries, np.delete(np.arange(len(entries)), deleted)))
        measured = run.measured() if self.fields else None
        if measured is not None:
            try:
                return self._decode_measured(measured)
            finally:
                measured.release()
        unscanned = run.unscanned()
        if unscanned is None:
            borrowed = run.borrowed()
            try:
                return self.decode(borrowed.entries)
            finally:
                borrowed.release()
        try:
            return self._decode_unscanned(unscanned)
        finally:
            unscanned.release()

    def whole_run(self, run: Run) -> pa.RecordBatch:
        """Decode all documents of a run, with the fields of the filter."""
        unscanned = run.unscanned()
        if unscanned is None:
            borrowed = run.borrowed()
            try:
                return self.whole(borrowed.entries)
            finally:
                borrowed.release()
        try:
            batch = codec.decode_unscanned_batch(unscanned, self._plan)
            return self.whole(unscanned.entries()) if batch is None else batch
        finally:
            unscanned.release()

    def _select(self, run: Run, predicate: Predicate, deleted: Rows | tuple[()]) -> pa.RecordBatch:
        measured = run.measured()
        if measured is None:
            borrowed = run.borrowed()
            try:
                return self._select_entries(borrowed.entries, predicate, deleted)
            finally:
                borrowed.release()
        try:
            rows = codec.select_front(measured, predicate)
            if rows is None:
                return self._select_entries(measured.entries(), predicate, deleted)
            rows = without_rows(rows, deleted)
            if self._is_dense(rows, len(measured)):
                front = codec.decode_front_batch(measured, self._plan)
                if front is not None:
                    return self._projection.pick(front, pa.array(rows))
            return self._matches(rows, partial(codec.take_measured, measured))
        finally:
            measured.release()

    def _select_entries(
        self, entries: codec.Entries, predicate: Predicate, deleted: Rows | tuple[()]
    ) -> pa.RecordBatch:
        rows = without_rows(codec.select(entries, predicate), deleted)
        if self._is_dense(rows, len(entries)):
            try:
                return self._projection.pick(self.whole(entries), pa.array(rows))
            except TypeMismatch:
                pass  # documents that do not match may have values of other types
        return self._matches(rows, partial(codec.take, entries))

    def _is_dense(self, rows: Rows, count: int) -> bool:
        """Return whether it is cheaper to decode all documents than to copy the matching ones."""
        has_columns = len(self._projection.decoded) > 0
        return has_columns and len(rows) * _DOCUMENTS_PER_SPARSE_MATCH > count

    def _matches(self, rows: Rows, take: Callable[[Rows], codec.Entries]) -> pa.RecordBatch:
        """Decode some documents, which match."""
        if not len(self._projection.decoded):
            return codec.rows_without_columns(len(rows), self._projection.schema)
        return self._projection.pick(self.whole(take(rows)), None)

    def _decode_unscanned(self, unscanned: codec.UnscannedEntries) -> pa.RecordBatch:
        if self._first is None:
            batch = codec.decode_unscanned_batch(unscanned, self._plan)
            if batch is not None:
                return self._projection.apply(batch)
        return self.decode(unscanned.entries())

    def _decode_measured(self, measured: codec.MeasuredEntries) -> pa.RecordBatch:
        front = codec.decode_front_batch(
            measured, self._plan if self._first is None else self._first
        )
        if front is None:
            return self.decode(measured.entries(self.fields))
        if self._first is None:
            return self._projection.apply(front)
        return self._kept(front, partial(codec.take_measured, measured), measured.entries)

    def decode(self, run: codec.Entries) -> pa.RecordBatch:
        """Decode the requested columns of the documents that match the filter."""
        if self._first is None:
            return self._projection.apply(self.whole(run))
        return self._kept(
            codec.decode_batch(run, self._first), partial(codec.take, run), lambda: run
        )

    def _kept(
        self,
        front: pa.RecordBatch,
        take: Callable[[Rows], codec.Entries],
        take_all: Callable[[], codec.Entries],
    ) -> pa.RecordBatch:
        """Decode the matching documents of a batch with the fields of the filter."""
        rows = self._projection.matching(front)
        assert rows is not None
        if len(rows) * _DOCUMENTS_PER_SPARSE_MATCH > len(front):
            return self._projection.pick(self.whole(take_all()), rows)
        return self._projection.pick(self.whole(take(rows.to_numpy().astype(np.int64))), None)
