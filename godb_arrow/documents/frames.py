"""Frames of pandas and Polars on their way to record batches: what Arrow would change or refuse."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from godb_arrow.display import kind_of
from godb_arrow.errors import InvalidOption, UnsupportedType
from godb_arrow.schema import PANDAS_DETAILS

__all__ = ["check_polars", "library_of", "table_from_pandas"]

_UNSTORED = {
    "Object": "map its values to strings or structs first",
    "Int128": "cast it to pl.Decimal(38, 0) or pl.String",
    "UInt128": "cast it to pl.Decimal(38, 0) or pl.String",
}
"""Types of Polars that no Arrow type stands for, and what to do."""


def library_of(data: Any) -> str:
    """Return the name of the package that defines the type of a value."""
    return type(data).__module__.partition(".")[0]


def table_from_pandas(frame: Any) -> pa.Table:
    """Return a DataFrame of pandas as a table, with what pandas needs to restore it.

    Raises
    ------
    UnsupportedType
        A column has values of several types, or of one that Arrow lacks.
    """
    try:
        with warnings.catch_warnings():  # labels of several types are restored, too
            warnings.filterwarnings("ignore", "The DataFrame has column names of mixed type")
            table = pa.Table.from_pandas(frame)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise UnsupportedType(
            f"the DataFrame cannot become columns: {' '.join(str(part) for part in error.args)}",
            advice='convert that column, or write df.to_dict("records") to store mixed values',
        ) from error

    return _with_details(table, frame)


def _with_details(table: pa.Table, frame: Any) -> pa.Table:
    """Add what Arrow does not record for pandas: labels, categories, frequencies, and dtypes."""
    from godb_arrow.query.labels import (  # imports pandas
        describe_categories,
        describe_frequency,
        describe_labels,
    )

    names = table.schema.names[: len(frame.columns)]
    backed = [
        name
        for name, dtype in zip(names, frame.dtypes, strict=True)
        if type(dtype).__name__ == "ArrowDtype"
    ]
    index = frame.index
    levels = index.levels if index.nlevels > 1 else [index]
    dtypes = [*frame.dtypes, *(level.dtype for level in levels)]
    details = {
        "labels": describe_labels(frame.columns),
        "backed": backed,
        "categories": {
            name: described
            for name, dtype in zip(table.schema.names, dtypes, strict=False)
            if (described := describe_categories(dtype)) is not None
        },
        "frequency": describe_frequency(index),
    }
    metadata = table.schema.pandas_metadata
    # Without columns, a table with other metadata has no rows.
    if not metadata or not table.num_columns or not any(details.values()):
        return table
    metadata[PANDAS_DETAILS] = {"names": names, **details}
    stored = {**table.schema.metadata, b"pandas": json.dumps(metadata).encode()}
    return table.replace_schema_metadata(stored)


def check_polars(frame: Any) -> None:
    """Check that Arrow carries the columns of a DataFrame of Polars.

    Raises
    ------
    UnsupportedType
        Names a column that Arrow does not carry.
    InvalidOption
        The value is a series.
    """
    if not hasattr(frame, "columns"):
        raise InvalidOption(
            f"cannot write {kind_of(frame)} of Polars as documents",
            advice="give a DataFrame: series.to_frame(), or sink_godb of a LazyFrame",
        )
    for name, kind in frame.schema.items():
        for inner in _types_in(kind):
            if inner in _UNSTORED:
                raise UnsupportedType(
                    f"column {name!r}: documents cannot hold Polars' type {inner}",
                    advice=_UNSTORED[inner],
                )


def _types_in(kind: Any) -> Iterator[str]:
    yield kind.base_type().__name__
    inner = getattr(kind, "inner", None)
    if inner is not None:
        yield from _types_in(inner)
    for field in getattr(kind, "fields", ()):
        yield from _types_in(field.dtype)
