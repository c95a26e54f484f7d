"""Profiles of a collection's fields, in one pass and constant memory."""

from __future__ import annotations

import datetime as dt
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.display import Table, plural, progress_bar
from godb_arrow.errors import FieldNotFound, MissingDependency
from godb_arrow.query.comparable import (
    as_comparable,
    as_numbers,
    as_python,
    leaf_of,
    plain_type,
)
from godb_arrow.schema import is_json

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["FieldProfile", "Profile", "profile_entries"]


_SKETCH_HASHES = 1024  # smallest hashes kept; counts are exact below, and about 3 % off above
_COUNTED_VALUES = 1000  # values whose frequency is counted
_TOP_VALUES = 10
_BINS = 512  # bins of a histogram while it grows; fewer are returned
_RETURNED_BINS = 24
_MAX_DEPTH = 8
_SECONDS_PER_DAY = 86_400.0
_MAX_PLOTTED_SECONDS = 6e10  # from 1970, within the years that matplotlib draws
_HEADS = ["field", "type", "nulls", "absent", "distinct", "min", "max", "most frequent"]

_Numbers: TypeAlias = "npt.NDArray[np.float64]"


@dataclass(frozen=True, slots=True)
class FieldProfile:
    """Profile of a field.

    Attributes
    ----------
    name : str
        Name of the field, or a dotted path into structs.
    type : str
        Arrow type of the field.
    documents : int
        Number of documents.
    absent : int or None
        Number of documents without the field; None for nested fields and the id.
    nulls : int
        Number of documents where the field is null, or is inside an absent field.
    distinct : int or None
        Number of distinct values; None for lists and maps. It is exact below 1,024 values, then
        about 3 % off, and never above the number of values.
    min, max : object
        Smallest and largest value where values have an order; NaN does not count.
    top : list of tuple of object and int
        Most frequent values. Their counts are lower bounds if more than 1,000 are distinct.
    histogram : tuple of arrays or None
        Counts and bin edges of numbers and times (in seconds), as of ``numpy.histogram``.
    is_estimate : bool
        Whether `distinct` is an estimate, which displays as "≈".

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
    is_estimate: bool = False

    @property
    def has_few_values(self) -> bool:
        """Whether all values are among the most frequent: bars show them, and no histogram."""
        return self.distinct is not None and self.distinct <= len(self.top)


class Profile(Mapping[str, FieldProfile]):
    """Profiles of a collection's fields, by name; :meth:`Scannable.profile` returns it.

    Attributes
    ----------
    name : str
        Name of the collection.
    documents : int
        Number of documents.

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
                f"field {name!r} does not exist", advice=f"the fields are {', '.join(self._fields)}"
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
        for profile in self._fields.values():
            top = ", ".join(f"{_short(value)} ({count:,})" for value, count in profile.top[:3])
            about = "≈" if profile.is_estimate else ""
            distinct = "" if profile.distinct is None else f"{about}{profile.distinct:,}"
            absent = "" if profile.absent is None else f"{profile.absent:,}"
            counts = [f"{profile.nulls:,}", absent, distinct]
            yield [
                profile.name,
                profile.type,
                *counts,
                _short(profile.min),
                _short(profile.max),
                top,
            ]

    def __repr__(self) -> str:
        rows = [_HEADS, *self._rows()]
        widths = [max(len(row[at]) for row in rows) for at in range(len(_HEADS))]
        lines = ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(
            [f"{self.name}: {plural(self.documents, 'document')}", *map(str.rstrip, lines)]
        )

    def _repr_html_(self) -> str:
        table = Table(_HEADS, f"{self.name}: {plural(self.documents, 'document')}")
        for row in self._rows():
            table.add(*row)
        return table.html()

    def to_pandas(self) -> pd.DataFrame:
        """Return the profile as a DataFrame with a row for each field."""
        import pandas as pd

        names = ["type", "documents", "absent", "nulls", "distinct", "min", "max", "top"]
        rows = {n: [getattr(field, key) for key in names] for n, field in self._fields.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=names)

    def plot(self, columns: int = 3) -> Figure:
        """Draw a histogram of each field that has one, or else its most frequent values.

        Parameters
        ----------
        columns : int
            Number of pictures in a row.

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
        drawn = [
            profile
            for profile in self._fields.values()
            if profile.histogram is not None or profile.top
        ]
        rows = max(1, -(-len(drawn) // columns))

        alt = f"Distributions of the fields of {self.name}: {', '.join(one.name for one in drawn)}"

        class Shown(Figure):  # displayed by notebooks even without pyplot
            def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
                raw = io.BytesIO()
                self.savefig(raw, format="png", dpi=80)
                return raw.getvalue(), {"alt": alt}

        figure = Shown(figsize=(4 * columns, 2.4 * rows), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis in axes[len(drawn) :]:
            axis.set_axis_off()
        for profile, axis in zip(drawn, axes, strict=False):
            axis.set_title(f"{profile.name}  ({profile.type})", fontsize=9, loc="left")
            axis.tick_params(labelsize=7)
            _draw(axis, profile)
        return figure


def _draw(axis: Any, profile: FieldProfile) -> None:
    """Draw the values of a field: as text, as a histogram, or as bars."""
    sentence = _sentence(profile)
    if sentence:
        axis.set_axis_off()
        axis.text(0, 0.9, sentence, fontsize=9, va="top", transform=axis.transAxes)
    elif profile.histogram is not None and not profile.has_few_values:
        counts, edges = profile.histogram
        shown = edges
        is_date = profile.type.startswith(("timestamp", "date"))
        if is_date and np.abs(edges).max() < _MAX_PLOTTED_SECONDS:
            shown = (edges * 1e6).astype("datetime64[us]")
            axis.tick_params(axis="x", rotation=30)
        axis.stairs(counts, shown, fill=True)
        axis.set_ylabel("documents", fontsize=7)
    else:
        bars = profile.top
        if profile.histogram is not None:  # numbers in their order
            bars = sorted(bars, key=lambda bar: (_is_nan(bar[0]), bar[0]))
        names = [_short(value) for value, _ in bars]
        axis.barh(range(len(names)), [count for _, count in bars])
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.set_xlabel("documents", fontsize=7)


def _sentence(profile: FieldProfile) -> str:
    """Return what is to say of a field whose bars would all be equal, or else nothing."""
    values = profile.documents - profile.nulls
    if profile.distinct == 1 and profile.top:
        return f"{_short(profile.top[0][0])}\nin all {values:,} documents that have it"
    is_unique = profile.top and all(count == 1 for _, count in profile.top)
    if is_unique and profile.histogram is None and not profile.has_few_values:
        about = "about " if profile.is_estimate else ""
        return f"{about}{profile.distinct or values:,} different values"
    return ""


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


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
        Name of the collection, for display.
    schema : pyarrow.Schema
        Fields to profile.
    entries : iterator of Entries
        Documents in runs.
    total : int, optional
        Number of documents, for the progress bar.
    progress : bool
        Whether to show a progress bar.

    Returns
    -------
    Profile
    """
    plan = codec.plan_columns(schema)
    present = [0] * len(schema)
    documents = 0
    fields: list[_Field] = []
    for column in schema:
        fields += _fields_of(column, (column.name,))
    with progress_bar(total, shown=progress) as update:
        for run in entries:
            batch = codec.decode_batch(run, plan)
            for at, count in enumerate(codec.count_present(run, schema.names)):
                present[at] += count
            for field in fields:
                field.add(batch)
            documents += len(run)
            update(len(run))
    absent = {
        name: None if name == "_id" else documents - count
        for name, count in zip(schema.names, present, strict=True)
    }
    profiles = {field.name: field.profile(documents, absent.get(field.name)) for field in fields}
    return Profile(name, documents, profiles)


def _fields_of(field: pa.Field, path: tuple[str, ...]) -> Iterator[_Field]:
    """Yield the field, or the fields inside a struct."""
    kind = plain_type(field.type)
    names = [inside.name for inside in kind] if pa.types.is_struct(kind) else []
    if names and len(path) < _MAX_DEPTH:
        for inside in kind:
            yield from _fields_of(inside, (*path, inside.name))
    else:
        yield _Field(path, kind, field.type)


class _Field:
    """Running profile of a field."""

    def __init__(self, path: tuple[str, ...], kind: pa.DataType, shown: pa.DataType) -> None:
        types = pa.types
        self.name = ".".join(path)
        self._path = path
        self._kind = kind
        self._type = "json" if is_json(shown) else str(shown)
        self._is_scalar = not (types.is_nested(kind) or types.is_null(kind))
        self._has_order = self._is_scalar and not _is_bytes(kind)
        is_whole = types.is_integer(kind) or types.is_date(kind)
        self._is_number = bool(
            is_whole or types.is_floating(kind) or types.is_decimal(kind) or types.is_temporal(kind)
        )
        self._nulls = 0
        self._values = 0
        self._min: pa.Scalar | None = None
        self._max: pa.Scalar | None = None
        self._distinct = _Distinct()
        self._frequent = _Frequent()
        width = 0.0 if not is_whole else 1.0 if types.is_integer(kind) else _SECONDS_PER_DAY
        self._histogram = _Histogram(width)

    def add(self, batch: pa.RecordBatch) -> None:
        column = leaf_of(batch, self._path)
        self._nulls += column.null_count
        self._values += len(column) - column.null_count
        if not self._is_scalar or column.null_count == len(column):
            return
        counted = pc.value_counts(as_comparable(column.drop_null()))
        values, counts = counted.field("values"), counted.field("counts").to_numpy()
        self._distinct.add(values)
        self._frequent.add(values, counts)
        if self._has_order:
            is_real = pa.types.is_floating(values.type)
            found = pc.min_max(values.filter(pc.invert(pc.is_nan(values))) if is_real else values)
            self._min = _better(pc.less, found["min"], self._min)
            self._max = _better(pc.greater, found["max"], self._max)
        if self._is_number:
            self._histogram.add(as_numbers(values, self._kind), counts)

    def profile(self, documents: int, absent: int | None) -> FieldProfile:
        nulls = self._nulls - (absent or 0)
        if not self._is_scalar:
            return FieldProfile(self.name, self._type, documents, absent, nulls)
        top = self._frequent.top()
        values = [] if not top else self._python([value for value, _ in top])
        return FieldProfile(
            name=self.name,
            type=self._type,
            documents=documents,
            absent=absent,
            nulls=nulls,
            distinct=min(self._distinct.estimate(), self._values),
            min=self._extreme(self._min),
            max=self._extreme(self._max),
            top=[(value, count) for value, (_, count) in zip(values, top, strict=True)],
            histogram=self._histogram.result(),
            is_estimate=self._distinct.is_estimate,
        )

    def _extreme(self, value: pa.Scalar | None) -> Any:
        return None if value is None else self._python([value.as_py()])[0]

    def _python(self, values: list[Any]) -> list[Any]:
        """Return comparable values as values of the field's own type."""
        if not pa.types.is_temporal(self._kind):
            return values
        ticks = pa.int64() if self._kind.bit_width == 64 else pa.int32()
        return as_python(pa.array(values, ticks), self._kind)


def _is_bytes(kind: pa.DataType) -> bool:
    types = pa.types
    is_binary = types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind)
    return bool(is_binary or types.is_fixed_size_binary(kind))


def _better(is_better: Any, found: pa.Scalar, known: pa.Scalar | None) -> pa.Scalar:
    if known is None or not known.is_valid:
        return found
    return found if is_better(found, known).as_py() else known


class _Distinct:
    """Estimate of the number of distinct values from the smallest hashes (a KMV sketch)."""

    def __init__(self) -> None:
        self._smallest = np.empty(0, np.uint64)

    def add(self, values: pa.Array) -> None:
        if pa.types.is_large_binary(values.type) or pa.types.is_binary(values.type):
            texts = values
        else:
            texts = values.cast(pa.string())
        raw, _ = codec.survey_ids(texts.cast(pa.binary()))
        joined = np.concatenate([self._smallest, np.frombuffer(raw, np.uint64)])
        self._smallest = np.unique(joined)[:_SKETCH_HASHES]

    @property
    def is_estimate(self) -> bool:
        return len(self._smallest) == _SKETCH_HASHES

    def estimate(self) -> int:
        if not self.is_estimate:
            return len(self._smallest)
        return int((_SKETCH_HASHES - 1) / (int(self._smallest[-1]) / 2**64))


class _Frequent:
    """Counters of the most frequent values, of a fixed number (Misra and Gries)."""

    def __init__(self) -> None:
        self._counts: dict[Any, int] = {}

    def add(self, values: pa.Array, counts: npt.NDArray[np.int64]) -> None:
        if len(values) > _COUNTED_VALUES:
            # Rare values are dropped from a batch with so many different ones.
            chosen = np.argpartition(counts, -_COUNTED_VALUES)[-_COUNTED_VALUES:]
            values, counts = values.take(pa.array(chosen)), counts[chosen]
        for found, count in zip(values.to_pylist(), counts.tolist(), strict=True):
            value = math.nan if _is_nan(found) else found  # one NaN is one key
            self._counts[value] = self._counts.get(value, 0) + count
        if len(self._counts) > _COUNTED_VALUES:
            excess = sorted(self._counts.values(), reverse=True)[_COUNTED_VALUES]
            self._counts = {v: c - excess for v, c in self._counts.items() if c > excess}

    def top(self) -> list[tuple[Any, int]]:
        ordered = sorted(self._counts.items(), key=lambda item: -item[1])
        return ordered[:_TOP_VALUES]


class _Histogram:
    """Histogram whose bins double their width when a value lies outside."""

    def __init__(self, whole: float) -> None:
        self._whole = whole  # bins have a multiple of this width, so that each has as many values
        self._low = self._width = 0.0
        self._min, self._max = np.inf, -np.inf
        self._counts: npt.NDArray[np.int64] | None = None

    def add(self, values: _Numbers, counts: npt.NDArray[np.int64]) -> None:
        finite = np.isfinite(values) & (np.abs(values) < 1e300)
        values, counts = values[finite], counts[finite]
        if not len(values):
            return
        low, high = float(values.min()), float(values.max())
        self._min, self._max = min(self._min, low), max(self._max, high)
        if self._counts is None:
            self._low = low
            smallest = max(abs(low), abs(high), 1.0) * 2.0**-40
            self._width = max((high - low) / (_BINS // 2), smallest)
            if self._whole:
                self._width = self._whole * math.ceil(self._width / self._whole)
            self._counts = np.zeros(_BINS, np.int64)
        while high >= self._low + _BINS * self._width:
            self._double(0)
        while low < self._low:
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
        first = max(0, int(np.searchsorted(edges, self._min, "right")) - 1)
        last = min(_BINS, int(np.searchsorted(edges, self._max, "right")))
        step = max(1, -(-(last - first) // _RETURNED_BINS))
        starts = np.arange(first, last, step)
        counts = np.add.reduceat(self._counts[first:last], starts - first)
        return counts, np.append(edges[starts], edges[min(starts[-1] + step, _BINS)])
