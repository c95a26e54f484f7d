"""What the fields of a collection have, in one pass and constant memory."""

from __future__ import annotations

import datetime as dt
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from godb_arrow import codec
from godb_arrow.display import Table, progress_bar
from godb_arrow.errors import FieldNotFound, MissingDependency
from godb_arrow.schema import is_json, storage_schema

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["FieldProfile", "Profile", "profile_entries"]


_SKETCH = 1024  # the smallest hashes that are kept: exact below, about 3 % off above
_COUNTED = 1000  # values whose frequency is followed
_TOP = 10
_BINS = 512  # of a histogram while it grows; it is shown in fewer
_SHOWN_BINS = 24
_DEPTH = 8

_Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FieldProfile:
    """What a field has.

    Attributes
    ----------
    name : str
        The field, or a dotted path into structs.
    type : str
        Its Arrow type.
    documents : int
        How many there are.
    absent : int or None
        Documents without the field; None for fields inside others, and for the id.
    nulls : int
        Documents where it is null, or inside something that is absent.
    distinct : int or None
        How many distinct values; exact up to 1,024, then about 3 % off. None for lists and maps.
    min, max : object
        The extremes of what has an order; NaN does not count.
    top : list of tuple of object and int
        The most frequent values; their counts are lower bounds where more than 1,000 are distinct.
    histogram : tuple of arrays or None
        Counts and bin edges, as of ``numpy.histogram``, of numbers and (as seconds) timestamps.

    Examples
    --------
    >>> import godb_arrow
    >>> from godb_arrow.samples import FLIGHTS
    >>> field = godb_arrow.open_godb(FLIGHTS).profile(["carrier"])["carrier"]
    >>> field.type, field.distinct, field.top[0]
    ('string', 16, ('UA', 4637))
    """

    name: str
    type: str
    documents: int
    absent: int | None
    nulls: int
    distinct: int | None = None
    min: Any = None
    max: Any = None
    top: list[tuple[Any, int]] = field(default_factory=list)
    histogram: tuple[npt.NDArray[np.int64], _Numbers] | None = None


class Profile(Mapping[str, FieldProfile]):
    """The profiles of a collection's fields, by name: :meth:`Scannable.profile` makes it.

    Attributes
    ----------
    name : str
        The collection.
    documents : int
        How many there were.

    Examples
    --------
    >>> import godb_arrow
    >>> from godb_arrow.samples import FLIGHTS
    >>> godb_arrow.open_godb(FLIGHTS).profile(["origin", "distance"])
    flights: 27,004 documents
    field     type    nulls  absent  distinct  min  max   most frequent
    origin    string  0      0       3         EWR  LGA   EWR (9,893), JFK (9,161), LGA (7,950)
    distance  int64   0      0       177       80   4983  2475 (937), 762 (878), 2586 (671)
    """

    def __init__(self, name: str, documents: int, fields: dict[str, FieldProfile]) -> None:
        self.name = name
        self.documents = documents
        self._fields = fields

    def __getitem__(self, name: str) -> FieldProfile:
        if name not in self._fields:
            raise FieldNotFound(
                f"there is no field {name!r}", advice=f"the fields are {', '.join(self._fields)}"
            )
        return self._fields[name]

    def __contains__(self, name: object) -> bool:
        return name in self._fields

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._fields)

    def _rows(self) -> Iterator[list[str]]:
        for one in self._fields.values():
            top = ", ".join(f"{_short(value)} ({count:,})" for value, count in one.top[:3])
            distinct = "" if one.distinct is None else f"{one.distinct:,}"
            absent = "" if one.absent is None else f"{one.absent:,}"
            yield [one.name, one.type, f"{one.nulls:,}", absent, distinct,
                   _short(one.min), _short(one.max), top]  # fmt: skip

    def __repr__(self) -> str:
        rows = [_HEADS, *self._rows()]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS))]
        lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([f"{self.name}: {self.documents:,} documents", *map(str.rstrip, lines)])

    def _repr_html_(self) -> str:
        table = Table(_HEADS, f"{self.name}: {self.documents:,} documents")
        for row in self._rows():
            table.add(*row)
        return table.html()

    def to_pandas(self) -> pd.DataFrame:
        """The profile as a DataFrame, a row for each field."""
        import pandas as pd

        names = ["type", "documents", "absent", "nulls", "distinct", "min", "max", "top"]
        rows = {n: [getattr(one, key) for key in names] for n, one in self._fields.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=names)

    def plot(self, columns: int = 3) -> Figure:
        """Draw each field: a histogram of what has one, else the most frequent values.

        Parameters
        ----------
        columns : int
            Pictures beside each other.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        MissingDependency
            matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingDependency(
                "plots need matplotlib", advice='install it with pip install "godb-arrow[jupyter]"'
            ) from error
        drawn = [one for one in self._fields.values() if one.histogram is not None or one.top]
        rows = max(1, -(-len(drawn) // columns))

        class Shown(Figure):  # in a notebook also where nobody has imported pyplot
            def _repr_png_(self) -> bytes:
                raw = io.BytesIO()
                self.savefig(raw, format="png", dpi=80)
                return raw.getvalue()

        figure = Shown(figsize=(4 * columns, 2.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(drawn) :]:
            axis.set_axis_off()
        for one, axis in zip(drawn, axes, strict=False):
            axis.set_title(f"{one.name}  ({one.type})", fontsize=9, loc="left")
            axis.tick_params(labelsize=7)
            if one.histogram is not None:
                counts, edges = one.histogram
                shown = edges
                if one.type.startswith(("timestamp", "date")):
                    shown = (edges * 1e6).astype("datetime64[us]")
                    axis.tick_params(axis="x", rotation=30)
                axis.stairs(counts, shown, fill=True)
            else:
                names = [_short(value) for value, _ in one.top]
                axis.barh(range(len(names)), [count for _, count in one.top])
                axis.set_yticks(range(len(names)), names)
                axis.invert_yaxis()
        return figure


_HEADS = ["field", "type", "nulls", "absent", "distinct", "min", "max", "most frequent"]


def _short(value: object) -> str:
    if isinstance(value, dt.datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    text = "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 24 else text[:23] + "…"


def profile_entries(
    name: str,
    schema: pa.Schema,
    entries: Iterator[codec.Entries],
    *,
    total: int | None = None,
    progress: bool = False,
) -> Profile:
    """Profile documents.

    Parameters
    ----------
    name : str
        The collection's, for display.
    schema : pyarrow.Schema
        The fields to look at.
    entries : iterator of Entries
        The documents.
    total : int, optional
        How many there are, for the progress bar.
    progress : bool
        Whether to show one.

    Returns
    -------
    Profile
    """
    plan = codec.plan_columns(schema)
    present = [0] * len(schema)
    documents = 0
    fields: list[_Field] = []
    for one in storage_schema(schema):
        fields += _fields_of(one, schema.field(one.name).type, (one.name,))
    with progress_bar(total, shown=progress) as update:
        for run in entries:
            batch = codec.decode_batch(run, plan)
            batch = batch.cast(storage_schema(batch.schema))
            for at, count in enumerate(codec.count_present(run, schema.names)):
                present[at] += count
            for one in fields:
                one.add(batch)
            documents += len(run)
            update(len(run))
    absent = {
        name: None if name == "_id" else documents - count
        for name, count in zip(schema.names, present, strict=True)
    }
    made = {one.name: one.profile(documents, absent.get(one.name)) for one in fields}
    return Profile(name, documents, made)


def _fields_of(one: pa.Field, shown: pa.DataType, path: tuple[str, ...]) -> Iterator[_Field]:
    """The field, or those inside a struct."""
    if pa.types.is_struct(one.type) and one.type.num_fields and len(path) < _DEPTH:
        for at, inside in enumerate(one.type):
            yield from _fields_of(inside, shown.field(at).type, (*path, inside.name))
    else:
        yield _Field(path, one.type, shown)


class _Field:
    """A field while it is looked at."""

    def __init__(self, path: tuple[str, ...], kind: pa.DataType, shown: pa.DataType) -> None:
        self.name = ".".join(path)
        self._path = path
        self._type = "json" if is_json(shown) else str(shown)
        self._is_scalar = not pa.types.is_nested(kind) and not pa.types.is_null(kind)
        self._has_order = self._is_scalar and not pa.types.is_binary(kind)
        self._is_number = bool(
            pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
        )
        self._nulls = 0
        self._min: pa.Scalar | None = None
        self._max: pa.Scalar | None = None
        self._distinct = _Distinct()
        self._frequent = _Frequent()
        self._histogram = _Histogram()

    def add(self, batch: pa.RecordBatch) -> None:
        column = batch.column(self._path[0])
        if len(self._path) > 1:
            column = pc.struct_field(column, list(self._path[1:]))
        self._nulls += column.null_count
        if not self._is_scalar or column.null_count == len(column):
            return
        counted = pc.value_counts(column.drop_null())
        values, counts = counted.field("values"), counted.field("counts").to_numpy()
        self._distinct.add(values)
        self._frequent.add(values, counts)
        if self._has_order:
            found = pc.min_max(values)
            self._min = _better(pc.less, found["min"], self._min)
            self._max = _better(pc.greater, found["max"], self._max)
        if self._is_number:
            self._histogram.add(_as_numbers(values), counts)

    def profile(self, documents: int, absent: int | None) -> FieldProfile:
        nulls = self._nulls - (absent or 0)
        if not self._is_scalar:
            return FieldProfile(self.name, self._type, documents, absent, nulls)
        low, high = (None if s is None else s.as_py() for s in (self._min, self._max))
        return FieldProfile(
            self.name, self._type, documents, absent, nulls, self._distinct.estimate(),
            low, high, self._frequent.top(), self._histogram.result(),
        )  # fmt: skip


def _better(is_better: Any, found: pa.Scalar, known: pa.Scalar | None) -> pa.Scalar:
    return found if known is None or is_better(found, known).as_py() else known


def _as_numbers(values: pa.Array) -> _Numbers:
    """Numbers, and times as seconds since 1970."""
    if pa.types.is_temporal(values.type):
        stamps = values.cast(pa.timestamp("us", getattr(values.type, "tz", None)), safe=False)
        micros: _Numbers = stamps.cast(pa.int64()).to_numpy().astype(np.float64)
        return micros / 1e6
    found: _Numbers = values.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


class _Distinct:
    """How many distinct values there are, from the smallest hashes (a KMV sketch)."""

    def __init__(self) -> None:
        self._smallest = np.empty(0, np.uint64)

    def add(self, values: pa.Array) -> None:
        texts = values.cast(pa.string()) if not _is_text(values.type) else values
        raw, _ = codec.survey_ids(texts.cast(pa.binary()))
        joined = np.concatenate([self._smallest, np.frombuffer(raw, np.uint64)])
        self._smallest = np.unique(joined)[:_SKETCH]

    def estimate(self) -> int:
        if len(self._smallest) < _SKETCH:
            return len(self._smallest)
        return int((_SKETCH - 1) / (int(self._smallest[-1]) / 2**64))


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
    )  # fmt: skip


class _Frequent:
    """The most frequent values, with as many counters as are affordable (Misra and Gries)."""

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}

    def add(self, values: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        if len(values) > _COUNTED:
            # What is rare in a batch of so many different values is left out of it.
            chosen = np.argpartition(counts, -_COUNTED)[-_COUNTED:]
            values, counts = values.take(pa.array(chosen)), counts[chosen]
        for value, count in zip(values.to_pylist(), counts.tolist(), strict=True):
            self._counts[value] = self._counts.get(value, 0) + count
        if len(self._counts) > _COUNTED:
            least = sorted(self._counts.values(), reverse=True)[_COUNTED]
            self._counts = {v: c - least for v, c in self._counts.items() if c > least}

    def top(self) -> list[tuple[Any, int]]:
        ordered = sorted(self._counts.items(), key=lambda item: -item[1])
        return ordered[:_TOP]


class _Histogram:
    """Counts in bins that double their width when a value lies outside."""

    def __init__(self) -> None:
        self._low = self._width = 0.0
        self._least, self._most = np.inf, -np.inf
        self._counts: npt.NDArray[np.int64] | None = None

    def add(self, values: _Numbers, counts: npt.NDArray[np.int64]) -> None:
        finite = np.isfinite(values) & (np.abs(values) < 1e300)
        values, counts = values[finite], counts[finite]
        if not len(values):
            return
        least, most = float(values.min()), float(values.max())
        self._least, self._most = min(self._least, least), max(self._most, most)
        if self._counts is None:
            self._low = least
            smallest = max(abs(least), abs(most), 1.0) * 2.0**-40
            self._width = max((most - least) / (_BINS // 2), smallest)
            self._counts = np.zeros(_BINS, np.int64)
        while most >= self._low + _BINS * self._width:
            self._double(0)
        while least < self._low:
            self._double(_BINS // 2)
        bins = np.clip(((values - self._low) / self._width).astype(np.int64), 0, _BINS - 1)
        np.add.at(self._counts, bins, counts)

    def _double(self, place: int) -> None:
        assert self._counts is not None
        pairs = self._counts.reshape(-1, 2).sum(axis=1)
        self._low -= 2 * self._width * place
        self._width *= 2
        self._counts = np.zeros(_BINS, np.int64)
        self._counts[place : place + _BINS // 2] = pairs

    def result(self) -> tuple[npt.NDArray[np.int64], _Numbers] | None:
        if self._counts is None:
            return None
        edges = self._low + self._width * np.arange(_BINS + 1)
        first = max(0, int(np.searchsorted(edges, self._least, "right")) - 1)
        last = min(_BINS, int(np.searchsorted(edges, self._most, "right")))
        step = max(1, -(-(last - first) // _SHOWN_BINS))
        starts = np.arange(first, last, step)
        counts = np.add.reduceat(self._counts[first:last], starts - first)
        return counts, np.append(edges[starts], edges[min(starts[-1] + step, _BINS)])
