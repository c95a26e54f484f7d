"""Decoding of the columns that a projection needs, filter first."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.runs import Run
from godb_arrow.options import OnMismatch
from godb_arrow.query.projection import Projection
from godb_arrow.schema import ID_FIELD

__all__ = ["ProjectionDecoder"]


class ProjectionDecoder:
    """Decodes runs of documents for a projection.

    Where a filter keeps few documents of a run, only what it looks at is decoded of the others.

    Parameters
    ----------
    projection : Projection
        What to decode.
    strict : bool
        Whether a field that the schema does not have is an error.
    on_mismatch : {"error", "null"}
        What becomes of a value that does not fit.
    """

    def __init__(self, projection: Projection, *, strict: bool, on_mismatch: OnMismatch) -> None:
        self._projection = projection
        self._plan = codec.plan_columns(projection.decoded, strict=strict, on_mismatch=on_mismatch)
        self._first: codec.DecodePlan | None = None
        looked_at = [field for field in projection.decoded if field.name in projection.needed]
        if 0 < len(looked_at) < len(projection.decoded):
            self._first = codec.plan_columns(pa.schema(looked_at), on_mismatch=on_mismatch)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields whose places should be noted when documents are found; none for most."""
        first = self._plan if self._first is None else self._first
        names = tuple(name for name in first.schema.names if name != ID_FIELD)
        return () if first.strict or len(names) > _FEW_FIELDS else names

    @property
    def ahead(self) -> int:
        """How many results may wait to be taken: what a filter leaves is mostly small."""
        return 1 if self._projection.condition is None else _FILTERED_AHEAD

    def whole(self, run: codec.Entries) -> pa.RecordBatch:
        """All documents of a run, and all that the filter looks at."""
        return codec.decode_batch(run, self._plan)

    def decode_run(self, run: Run) -> pa.RecordBatch:
        """The documents of a run that the filter keeps, and the columns asked for.

        Where their sizes are known, no more of the others is looked at than the filter needs.
        """
        measured = run.measured() if self.fields else None
        if measured is not None:
            try:
                return self._decode_measured(measured)
            finally:
                measured.release()
        loan = run.lent()
        try:
            return self.decode(loan.entries)
        finally:
            loan.release()

    def whole_run(self, run: Run) -> pa.RecordBatch:
        """All documents of a run, and all that the filter looks at."""
        loan = run.lent()
        try:
            return self.whole(loan.entries)
        finally:
            loan.release()

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
        """The documents that the filter keeps, and the columns asked for."""
        if self._first is None:
            return self._projection.apply(self.whole(run))
        return self._kept(codec.decode_batch(run, self._first), run.take, lambda: run)

    def _kept(
        self,
        front: pa.RecordBatch,
        take: Callable[[npt.NDArray[np.int64]], codec.Entries],
        take_all: Callable[[], codec.Entries],
    ) -> pa.RecordBatch:
        """What the filter keeps, of documents of which it sees what it looks at."""
        rows = self._projection.matching(front)
        assert rows is not None
        if len(rows) * _SPARSE > len(front):
            return self._projection.pick(self.whole(take_all()), rows)
        return self._projection.pick(self.whole(take(rows.to_numpy().astype(np.int64))), None)


_FEW_FIELDS = 8
_FILTERED_AHEAD = 4
_SPARSE = 4  # below one document in so many, those that are kept are decoded on their own
