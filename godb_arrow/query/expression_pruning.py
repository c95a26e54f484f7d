"""Choice of the pieces or parts that may have documents that match an expression of Arrow."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS
from godb_arrow.query.bounds import Bounds
from godb_arrow.query.statistics import KINDS, Statistics
from godb_arrow.schema import NANOSECONDS_PER_DAY, NANOSECONDS_PER_SECOND, is_text, storage_schema

__all__ = ["may_match"]


def may_match(
    statistics: Statistics,
    condition: pc.Expression,
    needed: Collection[str],
    schema: pa.Schema,
) -> list[bool]:
    """Return which pieces may have documents that a filter keeps.

    Parameters
    ----------
    statistics : Statistics
        A row for each piece.
    condition : pyarrow.compute.Expression
        The filter.
    needed : collection of str
        The fields that the filter reads.
    schema : pyarrow.Schema
        The types that these are decoded to.

    Returns
    -------
    list of bool

    Notes
    -----
    Arrow itself evaluates the bounds against an expression, as it does for the row groups of
    Parquet files. Each piece is the path of a dataset file here, which is never opened.

    Examples
    --------
    >>> from godb_arrow.query.statistics import per_piece, statistics_of
    >>> fields = pa.schema({"n": pa.int64()})
    >>> batches = [pa.record_batch({"n": [1, 5]}), pa.record_batch({"n": [6, 9]})]
    >>> found = per_piece([statistics_of(batch, fields) for batch in batches], [0, 1], fields)
    >>> may_match(found, pc.field("n") > 7, ["n"], fields)
    [False, True]
    """
    import pyarrow.dataset as ds  # not before it is needed: it takes a while
    from pyarrow.fs import LocalFileSystem

    known = {name: statistics.bounds(name) for name in sorted(needed) if name in statistics.names}
    # Pieces of values that come as they like mostly have the same bounds: one stands for all.
    alike: dict[Any, list[int]] = {}
    for piece, found in enumerate(zip(*known.values(), strict=True)):
        alike.setdefault(found, []).append(piece)
    first_ones = [pieces[0] for pieces in alike.values()]
    guarantees = [
        [
            term
            for name, bounds in known.items()
            for term in _guaranteed(name, schema.field(name).type, bounds[piece])
        ]
        for piece in first_ones
    ]
    if not any(guarantees):
        return [True] * len(statistics)
    joined = [_all_of(found) for found in guarantees]
    dataset = ds.FileSystemDataset.from_paths(
        [str(piece) for piece in first_ones],
        schema=storage_schema(schema),
        format=ds.IpcFileFormat(),
        filesystem=LocalFileSystem(),
        partitions=joined,
    )
    try:
        left = {int(fragment.path) for fragment in dataset.get_fragments(filter=condition)}
    except pa.ArrowException:  # such as for numbers above 2^63 beside others; the filter decides
        return [True] * len(statistics)
    matching = [False] * len(statistics)
    for pieces in alike.values():
        for piece in pieces:
            matching[piece] = pieces[0] in left
    return matching


def _guaranteed(name: str, data_type: pa.DataType, bounds: Bounds | None) -> list[pc.Expression]:
    """Return expressions that are true of all documents of a piece."""
    if bounds is None or bounds.nans or bounds.others:
        return []
    field = pc.field(name)
    known = [(kind, pair) for kind, pair in zip(KINDS, bounds[:5], strict=True) if pair is not None]
    if not known:
        return [field.is_null()] if bounds.nulls else []
    if len(known) > 1:
        return []
    ((kind, pair),) = known
    ends = _typed(kind, pair, data_type)
    if ends is None:
        return []
    terms = [field >= ends[0], field <= ends[1]]
    return [one | field.is_null() for one in terms] if bounds.nulls else terms


def _typed(kind: str, pair: Any, data_type: pa.DataType) -> tuple[pa.Scalar, pa.Scalar] | None:
    """Return bounds as scalars of a column's type; None where they say nothing of the column."""
    types = pa.types
    try:
        if kind == "numbers" and types.is_floating(data_type):
            return pa.scalar(_below(pair[0]), data_type), pa.scalar(_above(pair[1]), data_type)
        if kind == "numbers" and types.is_integer(data_type):
            return pa.scalar(math.floor(pair[0]), data_type), pa.scalar(
                math.ceil(pair[1]), data_type
            )
        if kind == "strings" and is_text(data_type):
            return pa.scalar(pair[0], data_type), pa.scalar(pair[1], data_type)
        if kind == "booleans" and types.is_boolean(data_type):
            return pa.scalar(pair[0], data_type), pa.scalar(pair[1], data_type)
        if kind == "moments" and (types.is_timestamp(data_type) or types.is_date(data_type)):
            return _moment(pair[0], data_type), _moment(pair[1], data_type)
    except (pa.ArrowException, OverflowError, ValueError):
        pass  # such as a float that is no number of the type
    return None


def _below(number: int | float) -> float:
    found = float(number)
    return math.nextafter(found, -math.inf) if found > number else found


def _above(number: int | float) -> float:
    found = float(number)
    return math.nextafter(found, math.inf) if found < number else found


def _moment(nanoseconds: int, data_type: pa.DataType) -> pa.Scalar:
    if pa.types.is_date32(data_type):
        days = nanoseconds // NANOSECONDS_PER_DAY
        return pa.scalar(days, pa.int32()).cast(data_type)
    if pa.types.is_date64(data_type):  # a date is its midnight
        nanoseconds -= nanoseconds % NANOSECONDS_PER_DAY
    unit = "ms" if pa.types.is_date64(data_type) else data_type.unit
    ticks = nanoseconds // (NANOSECONDS_PER_SECOND // UNITS[unit])
    return pa.scalar(ticks, pa.int64()).cast(data_type)


def _all_of(terms: list[pc.Expression]) -> pc.Expression:
    joined = pc.scalar(True)
    for index, term in enumerate(terms):
        joined = term if index == 0 else joined & term
    return joined
