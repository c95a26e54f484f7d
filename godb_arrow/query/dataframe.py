"""Conversion of Arrow tables to pandas DataFrames."""

from __future__ import annotations

import gc
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from godb_arrow import codec

__all__ = ["DtypeBackend", "to_frame"]


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
    table = _fitting_index(table)
    mapper = {"pyarrow": pd.ArrowDtype, "numpy_nullable": _NULLABLE.get, None: None}
    nested = {}
    if dtype_backend != "pyarrow":
        for position, name in enumerate(_columns_of(table)):
            if _becomes_dicts(table.column(name).type):
                nested[position] = table.column(name)
                index = table.column_names.index(name)
                table = table.set_column(index, name, pa.nulls(table.num_rows))
    # The new objects have no cycles; searching for cycles takes as long as creating the objects.
    collecting = gc.isenabled()
    gc.disable()
    try:
        frame: pd.DataFrame = table.to_pandas(types_mapper=mapper[dtype_backend])
        for position, structs in nested.items():
            frame.isetitem(position, _dicts(structs))
    finally:
        if collecting:
            gc.enable()
    if dtype_backend is not None:
        return frame
    for position, name in enumerate(_columns_of(table)):
        values = table.column(name)
        kept = isinstance(frame.dtypes.iloc[position], pd.api.extensions.ExtensionDtype)
        if values.null_count and values.type in _KEPT_WITH_NULLS and not kept:
            dtype = _NULLABLE[values.type]
            frame.isetitem(position, dtype.__from_arrow__(values))  # type: ignore[attr-defined]
    return frame


def _becomes_dicts(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_struct(data_type)) and all(
        _becomes_dicts(field.type)
        or pa.types.is_integer(field.type)
        or field.type in (pa.float64(), pa.bool_(), pa.string())
        for field in data_type
    )


def _dicts(structs: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    """Convert structs to dicts, faster than pyarrow and keeping integers beside nulls."""
    objects = np.empty(len(structs), object)
    at = 0
    for chunk in structs.chunks:
        objects[at : at + len(chunk)] = _objects(chunk)
        at += len(chunk)
    return objects


def _objects(values: pa.Array) -> list[Any]:
    if pa.types.is_struct(values.type):
        names = [field.name for field in values.type]
        columns = [_objects(child) for child in values.flatten()]
        objects = codec.to_dicts(names, columns, len(values))
    elif pa.types.is_string(values.type):
        return values.to_numpy(zero_copy_only=False).tolist()  # type: ignore[no-any-return]
    else:
        zero = pa.scalar(0).cast(values.type)
        objects = values.fill_null(zero).to_numpy(zero_copy_only=False).tolist()
    if values.null_count:
        for row in np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False)).tolist():
            objects[row] = None
    return objects


def _columns_of(table: pa.Table) -> list[str]:
    """Return the table's columns that do not become part of the index."""
    metadata = table.schema.pandas_metadata or {}
    index = [name for name in metadata.get("index_columns", []) if isinstance(name, str)]
    return [name for name in table.column_names if name not in index]


def _fitting_index(table: pa.Table) -> pa.Table:
    """Drop pandas' recorded range index if rows were filtered out of the table."""
    metadata = table.schema.pandas_metadata
    if not metadata:
        return table
    for index in metadata.get("index_columns", []):
        if isinstance(index, dict) and index.get("kind") == "range":
            length = len(range(index["start"], index["stop"], index["step"]))
            if length != table.num_rows:
                kept = {k: v for k, v in (table.schema.metadata or {}).items() if k != b"pandas"}
                return table.replace_schema_metadata(kept)
    return table
