"""DataFrames of pandas, read from GODB files and written to them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Unpack, overload

import pandas as pd
import pyarrow as pa

from godb_arrow.connectors.fitting import fit_column
from godb_arrow.documents.frames import table_from_pandas
from godb_arrow.engine.places import file_of
from godb_arrow.engine.reading import Sources, read_schema, read_table, scan_godb
from godb_arrow.errors import InvalidOption, UnsupportedType
from godb_arrow.file.reading import recorded_schema
from godb_arrow.file.writing import write_godb
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import IfExists, ReadKeywords
from godb_arrow.query.dataframe import DtypeBackend, recorded_range, to_frame, with_index
from godb_arrow.query.filters import Filter
from godb_arrow.storage.source import open_source
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["GodbAccessor", "read_godb", "to_godb"]


@overload
def read_godb(
    path: Sources,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: None = None,
    dtype_backend: DtypeBackend | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pd.DataFrame: ...


@overload
def read_godb(
    path: Sources,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: int,
    dtype_backend: DtypeBackend | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[pd.DataFrame]: ...


@explain_keywords
def read_godb(
    path: Sources,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: int | None = None,
    dtype_backend: DtypeBackend | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """Load a collection into a DataFrame.

    Parameters
    ----------
    path : path, URL, bytes or open binary file, or a list of them
        A GODB file or a data directory (``"data#users"``). Several are read as one collection,
        given as a list or with wildcards (``"logs/*.godb"``).
    collection : str, optional
        Name of the collection. Optional if there is only one.
    columns : sequence of str, optional
        Fields to read, and dotted paths into structs; all by default.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default. ``{"city": "Berlin"}`` stands for an equality.
    schema : pyarrow.Schema, optional
        Schema of the documents; inferred by default.
    chunksize : int, optional
        Number of rows in each DataFrame of an iterator. Memory is then bounded by a chunk. By
        default the result is one DataFrame.
    dtype_backend : {"pyarrow", "numpy_nullable"}, optional
        Backend of the dtypes. By default columns get pandas' own dtypes, except that integers and
        booleans with missing values get nullable ones, which are exact.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.
    **options
        See :func:`godb_arrow.scan_godb`.

    Returns
    -------
    pandas.DataFrame or iterator of pandas.DataFrame
        The documents. The index of a DataFrame that was written is restored. Structs become
        dicts, lists become arrays, and JSON text stays text.

    Raises
    ------
    GodbError
        See :mod:`godb_arrow.errors`.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> godb_arrow.read_godb(file.getvalue(), columns=["name", "age"])
      name  age
    0  Ada   36
    """
    if dtype_backend not in (None, "pyarrow", "numpy_nullable"):
        raise InvalidOption(
            f"dtype_backend is {dtype_backend!r}", advice='use "pyarrow" or "numpy_nullable"'
        )
    place = path
    with with_options(path, storage_options):
        file = file_of(path, collection)
        if file is not None:
            # A file that is open in the caller is read twice.
            storage_options, collection = None, file.collection
            place = source = open_source(file.location)
        if columns is not None and schema is None:
            recorded = (
                read_schema(path, collection)
                if file is None
                else recorded_schema(source, collection, **options)
            )
            columns = columns if recorded is None else with_index(recorded, columns)
    if chunksize is None:
        table = read_table(
            place, collection, columns=columns, filter=filter, schema=schema,
            storage_options=storage_options, **options,
        )  # fmt: skip
        return to_frame(table, dtype_backend)
    if isinstance(chunksize, bool) or not isinstance(chunksize, int) or chunksize < 1:
        raise InvalidOption(f"chunksize is {chunksize!r}", advice="give an integer of at least 1")
    options.setdefault("batch_size", min(chunksize, 65_536))
    reader = scan_godb(
        place, collection, columns=columns, filter=filter, schema=schema,
        storage_options=storage_options, **options,
    )  # fmt: skip
    return _frames(reader, chunksize, dtype_backend, is_whole=filter is None)


def _frames(
    reader: pa.RecordBatchReader, rows: int, backend: DtypeBackend | None, *, is_whole: bool
) -> Iterator[pd.DataFrame]:
    """Yield the rows in chunks; one without rows if there are none."""
    recorded = recorded_range(reader.schema) if is_whole else None
    labels = range(0, 1) if recorded is None else recorded  # only start and step count
    waiting: list[pa.RecordBatch] = []
    empty: list[pa.RecordBatch] = []  # with the categories
    count = 0
    start = 0

    def chunk() -> pd.DataFrame:
        frame = to_frame(pa.Table.from_batches(waiting or empty, reader.schema), backend)
        if isinstance(frame.index, pd.RangeIndex):
            first, step = labels.start + start * labels.step, labels.step
            end = first + len(frame) * step
            frame.index = pd.RangeIndex(first, end, step, name=frame.index.name)
        return frame

    for batch in reader:
        while count + batch.num_rows >= rows:
            taken = rows - count
            waiting.append(batch.slice(0, taken))
            batch = batch.slice(taken)
            yield chunk()
            start += rows
            waiting, count = [], 0
        empty = [batch.slice(0, 0)]
        if batch.num_rows:
            waiting.append(batch)
            count += batch.num_rows
    if waiting or not start:
        yield chunk()


def to_godb(
    frames: pd.DataFrame | Iterable[pd.DataFrame],
    path: str | os.PathLike[str] | IO[bytes],
    collection: str,
    *,
    if_exists: IfExists = "replace",
    **options: Any,
) -> int:
    """Write a DataFrame, or chunks of one, into a GODB file.

    Parameters
    ----------
    frames : DataFrame or iterable of DataFrame
        Rows to write. Of chunks, such as those from ``pandas.read_csv(…, chunksize=…)``, one is in
        memory at a time. Columns have the types of the first chunk with values, and are null in
        chunks that lack them.
    path, collection, if_exists, **options
        See :func:`godb_arrow.write_godb`, which describes how each dtype is stored.

    Returns
    -------
    int
        Number of documents written.

    Raises
    ------
    UnsupportedType
        The values of a column do not fit the type in an earlier chunk.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> to_godb((pd.DataFrame({"n": [part, part + 1]}) for part in (0, 2)), file, "numbers")
    4
    >>> read_godb(file.getvalue(), columns=["n"])["n"].tolist()
    [0, 1, 2, 3]
    """
    if isinstance(frames, pd.DataFrame):
        return write_godb(frames, path, collection, if_exists=if_exists, **options)
    with tempfile.TemporaryFile(prefix="godb-arrow-") as file:
        schema = _spool(frames, file)
        if schema is None:
            return write_godb([], path, collection, if_exists=if_exists, **options)
        reader = pa.RecordBatchReader.from_batches(schema, _spooled(file, schema))
        return write_godb(reader, path, collection, if_exists=if_exists, **options)


def _spool(frames: Iterable[pd.DataFrame], file: IO[bytes]) -> pa.Schema | None:
    """Write chunks to a temporary file, and return a schema that has the columns of all."""
    fields: dict[str, pa.Field] = {}
    without_values: set[str] = set()
    metadata = None
    for frame in frames:
        table = table_from_pandas(frame)
        if metadata is None:
            # A plain index is not stored, because the first chunk's index is wrong for the others.
            is_plain = isinstance(frame.index, pd.RangeIndex)
            metadata = (_without_range(table.schema) if is_plain else table.schema).metadata
        for field, column in zip(table.schema, table.columns, strict=True):
            has_values = column.null_count < len(column)
            if field.name not in fields or (has_values and field.name in without_values):
                kind = field.type
                if pa.types.is_dictionary(kind):
                    kind = pa.dictionary(pa.int32(), kind.value_type, kind.ordered)
                fields[field.name] = field.with_type(kind)
                without_values.discard(field.name)
                if not has_values:
                    without_values.add(field.name)
        with pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    return None if metadata is None else pa.schema(list(fields.values()), metadata=metadata)


def _spooled(file: IO[bytes], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield the rows of spooled chunks, with the columns of all."""
    end = file.tell()
    file.seek(0)
    number = 0
    while file.tell() < end:
        with pa.ipc.open_stream(file) as stream:
            table = stream.read_all()
        columns = []
        for field in schema:
            try:
                columns.append(_fitted(table, field))
            except (pa.ArrowException, ValueError) as error:
                raise UnsupportedType(
                    f"column {field.name!r} of chunk {number} does not have the type of the "
                    f"first, {field.type}: {error}",
                    advice="give all chunks the same dtypes, for example with astype",
                ) from error
        yield from pa.Table.from_arrays(columns, schema=schema).to_batches()
        number += 1


def _fitted(table: pa.Table, field: pa.Field) -> pa.ChunkedArray:
    if field.name not in table.schema.names:
        return pa.chunked_array([pa.nulls(len(table), field.type)])
    chunks = [fit_column(chunk, field.type) for chunk in table.column(field.name).chunks]
    return pa.chunked_array(chunks, field.type)


def _without_range(schema: pa.Schema) -> pa.Schema:
    metadata = schema.pandas_metadata
    metadata["index_columns"] = []
    stored = {**schema.metadata, b"pandas": json.dumps(metadata).encode()}
    return schema.with_metadata(stored)


@pd.api.extensions.register_dataframe_accessor("godb")
class GodbAccessor:
    """Methods of godb_arrow on a DataFrame, as ``df.godb``.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> pd.DataFrame({"n": [1, 2]}).godb.write(file, "numbers")
    2
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def write(
        self,
        path: str | os.PathLike[str] | IO[bytes],
        collection: str,
        *,
        if_exists: IfExists = "replace",
        **options: Any,
    ) -> int:
        """Write the DataFrame into a GODB file; see :func:`godb_arrow.write_godb`."""
        return to_godb(self._frame, path, collection, if_exists=if_exists, **options)
