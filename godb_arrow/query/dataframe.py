"""Conversion of Arrow tables to pandas DataFrames."""

from __future__ import annotations

import gc
import importlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import pandas as pd
import pyarrow as pa

from godb_arrow.errors import InvalidOption, UnsupportedType
from godb_arrow.query.fields import check_columns
from godb_arrow.query.labels import rebuild_categories, rebuild_frequency, rebuild_labels
from godb_arrow.query.python_values import object_column, would_round
from godb_arrow.schema import PANDAS_DETAILS

_EXTENSION_TYPES = "pandas.core.arrays.arrow.extension_types"

with suppress(ImportError):  # registers periods and intervals as Arrow types
    importlib.import_module(_EXTENSION_TYPES)

__all__ = ["DtypeBackend", "recorded_range", "to_frame", "with_index"]


DtypeBackend = Literal["pyarrow", "numpy_nullable"]

_NULLABLE: dict[pa.DataType, pd.api.extensions.ExtensionDtype] = {
    pa.int8(): pd.Int8Dtype(),
    pa.int16(): pd.Int16Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.uint16(): pd.UInt16Dtype(),
    pa.uint32(): pd.UInt32Dtype(),
    pa.uint64(): pd.UInt64Dtype(),
    pa.bool_(): pd.BooleanDtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.string(): pd.StringDtype(),
    pa.large_string(): pd.StringDtype(),
}

_KEPT_WITH_NULLS = frozenset(
    kind for kind in _NULLABLE if pa.types.is_integer(kind) or pa.types.is_boolean(kind)
)


def to_frame(table: pa.Table, dtype_backend: DtypeBackend | None = None) -> pd.DataFrame:
    """Convert a table to a DataFrame, with the dtypes that :func:`read_godb` describes.

    Parameters
    ----------
    table : pyarrow.Table
        Table to convert.
    dtype_backend : {"pyarrow", "numpy_nullable"}, optional
        Dtypes of the columns, as in pandas.

    Returns
    -------
    pandas.DataFrame

    Examples
    --------
    >>> to_frame(pa.table({"a": [1, None]})).dtypes["a"]
    Int64Dtype()
    """
    mapper = {"pyarrow": pd.ArrowDtype, "numpy_nullable": _NULLABLE.get, None: None}
    if dtype_backend not in mapper:
        raise InvalidOption(
            f"dtype_backend is {dtype_backend!r}", advice="use pyarrow or numpy_nullable"
        )
    table, recorded = _fitted(table)
    objects: dict[int, pa.ChunkedArray] = {}
    backed: dict[int, pa.ChunkedArray] = {}
    categories: dict[str, pd.Categorical] = {}
    if dtype_backend != "pyarrow":
        categories = _categories(table, recorded.categories)
        for name in categories:
            index = table.column_names.index(name)
            table = table.set_column(index, name, pa.nulls(table.num_rows))
        for position, name in enumerate(_columns_of(table)):
            column = table.column(name)
            if dtype_backend is None and name in recorded.backed:
                backed[position] = column
            elif would_round(column.type):
                objects[position] = column
            else:
                continue
            index = table.column_names.index(name)
            table = table.set_column(index, name, pa.nulls(table.num_rows))
    # The new objects have no cycles, and looking for cycles takes as long as creating the objects.
    collecting = gc.isenabled()
    gc.disable()
    try:
        frame = _to_pandas(table, mapper[dtype_backend])
        for position, column in objects.items():
            frame.isetitem(position, object_column(column))
        for position, column in backed.items():
            frame.isetitem(position, pd.arrays.ArrowExtensionArray(column))
        for position, name in enumerate(_columns_of(table)):
            if name in categories:
                frame.isetitem(position, categories[name])
    finally:
        if collecting:
            gc.enable()
    if dtype_backend is None:
        _keep_integers(frame, table)
    frame.index = _with_levels(
        frame.index, _index_columns(table.schema.pandas_metadata), categories
    )
    rebuild_frequency(recorded.frequency, frame.index)
    labels = recorded.labels
    if labels is not None:
        rebuilt = rebuild_labels(labels["labels"], labels["names"], _columns_of(table))
        if rebuilt is not None:
            frame.columns = rebuilt
    return frame


def with_index(schema: pa.Schema, columns: Sequence[str] | None) -> list[str] | None:
    """Add the columns of the index of a recorded DataFrame to the requested columns.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of the collection.
    columns : sequence of str, optional
        Requested fields.

    Returns
    -------
    list of str or None
    """
    check_columns(columns)
    if columns is None:
        return None
    missing = [name for name in _index_columns(schema.pandas_metadata) if name not in columns]
    return [*columns, *(name for name in missing if name in schema.names)]


def recorded_range(schema: pa.Schema) -> range | None:
    """Return the range that was the index of a recorded DataFrame."""
    for index in _index_descriptions(schema.pandas_metadata):
        if isinstance(index, dict) and index.get("kind") == "range":
            with suppress(KeyError, TypeError, ValueError):
                return range(index["start"], index["stop"], index["step"])
    return None


class _Recorded(NamedTuple):
    """Details that are recorded for pandas and that Arrow does not restore."""

    labels: Mapping[str, Any] | None = None
    backed: frozenset[str] = frozenset()
    categories: Mapping[str, Any] = MappingProxyType({})
    frequency: str | None = None


def _to_pandas(table: pa.Table, mapper: Any) -> pd.DataFrame:
    try:
        frame: pd.DataFrame = table.to_pandas(types_mapper=mapper)
    except (KeyError, TypeError, ValueError, OverflowError, SyntaxError):
        # What was recorded does not fit: another program wrote it, or columns were added.
        plain = table.replace_schema_metadata()
        try:
            # Python has no dates after the year 9999, but pandas has.
            frame = plain.to_pandas(types_mapper=mapper, date_as_object=False)
        except (LookupError, ValueError, TypeError, OverflowError) as error:  # also of zones
            raise UnsupportedType(
                f"the columns cannot become a DataFrame: {error}",
                advice="choose other columns, or read a table",
            ) from error
    return frame


def _keep_integers(frame: pd.DataFrame, table: pa.Table) -> None:
    """Convert integers and booleans beside nulls to the nullable dtypes."""
    for position, name in enumerate(_columns_of(table)):
        values = table.column(name)
        kept = isinstance(frame.dtypes.iloc[position], pd.api.extensions.ExtensionDtype)
        if values.null_count and values.type in _KEPT_WITH_NULLS and not kept:
            dtype = _NULLABLE[values.type]
            frame.isetitem(position, dtype.__from_arrow__(values))  # type: ignore[attr-defined]


def _categories(table: pa.Table, described: Mapping[str, Any]) -> dict[str, pd.Categorical]:
    """Return the categories of columns that Arrow does not convert to categories of pandas."""
    found: dict[str, pd.Categorical | None] = {}
    for field, column in zip(table.schema, table.columns, strict=True):
        if pa.types.is_dictionary(field.type):
            is_zoned = getattr(field.type.value_type, "tz", None) is not None
            if is_zoned and column.num_chunks:
                found[field.name] = _zoned(column)
        elif field.name in described:
            found[field.name] = rebuild_categories(described[field.name], column)
    return {name: category for name, category in found.items() if category is not None}


def _zoned(column: pa.ChunkedArray) -> pd.Categorical:
    """Return categories of moments with their zone, which Arrow drops."""
    chunks = column.unify_dictionaries().chunks
    codes = pa.chunked_array([chunk.indices for chunk in chunks]).fill_null(-1).to_numpy()
    moments = pd.DatetimeIndex(chunks[0].dictionary.to_pandas())
    categories: Any = pd.Categorical
    return categories.from_codes(codes, moments, ordered=column.type.ordered)  # type: ignore[no-any-return]


def _with_levels(
    index: pd.Index, names: Sequence[str], categories: Mapping[str, pd.Categorical]
) -> pd.Index:
    """Return an index with categories in some of its levels."""
    if len(names) != index.nlevels or not categories.keys() & set(names):
        return index
    levels = [
        pd.CategoricalIndex(categories[name]) if name in categories else index.get_level_values(at)
        for at, name in enumerate(names)
    ]
    if len(levels) > 1:
        return pd.MultiIndex.from_arrays(levels, names=index.names)
    return levels[0].rename(index.name)


def _index_descriptions(metadata: Mapping[str, Any] | None) -> list[Any]:
    found = (metadata or {}).get("index_columns")
    return found if isinstance(found, list) else []


def _index_columns(metadata: Mapping[str, Any] | None) -> list[str]:
    return [name for name in _index_descriptions(metadata) if isinstance(name, str)]


def _columns_of(table: pa.Table) -> list[str]:
    """Return the table's columns that do not become a part of the index."""
    index = set(_index_columns(table.schema.pandas_metadata))
    return [name for name in table.column_names if name not in index]


def _fitted(table: pa.Table) -> tuple[pa.Table, _Recorded]:
    """Fit what is recorded for pandas to the rows and columns of a table."""
    metadata = table.schema.pandas_metadata
    if not metadata or not table.num_columns:  # which has no rows with other metadata
        return table, _Recorded()
    names = set(table.column_names)
    index = [
        _fitted_range(described, table.num_rows) if isinstance(described, dict) else described
        for described in _index_descriptions(metadata)
        if isinstance(described, dict) or described in names
    ]
    if not index and table.num_columns:
        index = [_range(table.num_rows, None)]
    metadata["index_columns"] = index
    details = metadata.get(PANDAS_DETAILS)
    details = details if isinstance(details, dict) else {}
    backed = set(details.get("backed") or ())
    for column in metadata.get("columns", []):
        if str(column.get("numpy_type")).endswith("[pyarrow]"):
            backed.add(column.get("field_name", column.get("name")))
        if column.get("field_name") in backed:
            column["numpy_type"] = "object"
    labels = details if details.get("labels") else None
    if labels is not None:
        plain = {
            "name": None,
            "field_name": None,
            "pandas_type": "unicode",
            "numpy_type": "object",
            "metadata": {"encoding": "UTF-8"},
        }
        metadata["column_indexes"] = [plain]
    stored = {**table.schema.metadata, b"pandas": json.dumps(metadata).encode()}
    categories = details.get("categories")
    recorded = _Recorded(
        labels,
        frozenset(backed),
        categories if isinstance(categories, dict) else {},
        details.get("frequency"),
    )
    return table.replace_schema_metadata(stored), recorded


def _fitted_range(described: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return a recorded range, or one from 0 if the number of rows differs."""
    try:
        length = len(range(described["start"], described["stop"], described["step"]))
    except (KeyError, TypeError, ValueError):
        length = -1
    return described if length == rows else _range(rows, described.get("name"))


def _range(rows: int, name: Any) -> dict[str, Any]:
    return {"kind": "range", "name": name, "start": 0, "stop": rows, "step": 1}
