"""DataFrames of pandas, read from GODB files and written to them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, Unpack, overload

import pandas as pd
import pyarrow as pa

from godb_arrow.errors import InvalidOption, UnsupportedType
from godb_arrow.file.reading import read_table, scan_godb
from godb_arrow.file.writing import write_godb
from godb_arrow.options import IfExists, ReadKeywords
from godb_arrow.query.dataframe import DtypeBackend, to_frame
from godb_arrow.query.filters import Filter
from godb_arrow.storage.source import Location

__all__ = ["GodbAccessor", "read_godb", "to_godb"]


@overload
def read_godb(
    path: Location,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: None = None,
    dtype_backend: DtypeBackend | None = None,
    **options: Unpack[ReadKeywords],
) -> pd.DataFrame: ...


@overload
def read_godb(
    path: Location,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: int,
    dtype_backend: DtypeBackend | None = None,
    **options: Unpack[ReadKeywords],
) -> Iterator[pd.DataFrame]: ...


def read_godb(
    path: Location,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    schema: pa.Schema | None = None,
    chunksize: int | None = None,
    dtype_backend: DtypeBackend | None = None,
    **options: Unpack[ReadKeywords],
) -> pd.DataFrame | Iterator[pd.DataFrame]:
    """Load a collection of a GODB file into a DataFrame.

    Parameters
    ----------
    path : path, URL, bytes or open binary file
        The GODB file.
    collection : str, optional
        Name of the collection. Optional if the file has only one.
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
    if chunksize is None:
        table = read_table(
            path, collection, columns=columns, filter=filter, schema=schema, **options
        )
        return to_frame(table, dtype_backend)
    if isinstance(chunksize, bool) or not isinstance(chunksize, int) or chunksize < 1:
        raise InvalidOption(f"chunksize is {chunksize!r}", advice="give an integer of at least 1")
    options.setdefault("batch_size", min(chunksize, 65_536))
    reader = scan_godb(path, collection, columns=columns, filter=filter, schema=schema, **options)
    return _frames(reader, chunksize, dtype_backend)


def _frames(
    reader: pa.RecordBatchReader, rows: int, backend: DtypeBackend | None
) -> Iterator[pd.DataFrame]:
    waiting: list[pa.RecordBatch] = []
    count = 0
    start = 0
    for batch in reader:
        while count + batch.num_rows >= rows:
            taken = rows - count
            waiting.append(batch.slice(0, taken))
            batch = batch.slice(taken)
            yield _chunk(waiting, reader.schema, backend, start)
            start += rows
            waiting, count = [], 0
        if batch.num_rows:
            waiting.append(batch)
            count += batch.num_rows
    if waiting:
        yield _chunk(waiting, reader.schema, backend, start)


def _chunk(
    batches: list[pa.RecordBatch], schema: pa.Schema, backend: DtypeBackend | None, start: int
) -> pd.DataFrame:
    frame = to_frame(pa.Table.from_batches(batches, schema), backend)
    if isinstance(frame.index, pd.RangeIndex):
        frame.index = pd.RangeIndex(start, start + len(frame), name=frame.index.name)
    return frame


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
        memory at a time. All chunks must have the types of the first one.
    path, collection, if_exists, **options
        See :func:`godb_arrow.write_godb`, which describes how each dtype is stored.

    Returns
    -------
    int
        Number of documents written.

    Raises
    ------
    UnsupportedType
        A chunk has a column that does not fit the types of the first one.

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
    chunks = iter(frames)
    first = next(chunks, None)
    if first is None:
        return write_godb([], path, collection, if_exists=if_exists, **options)
    schema = pa.Table.from_pandas(first).schema
    # A plain index is not stored, because the first chunk's index is wrong for the others.
    if isinstance(first.index, pd.RangeIndex):
        schema = schema.remove_metadata()

    def batches() -> Iterator[pa.RecordBatch]:
        for number, frame in enumerate(itertools.chain([first], chunks)):
            try:
                table = pa.Table.from_pandas(frame, schema=schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError, KeyError) as error:
                raise UnsupportedType(
                    f"chunk {number} does not have the types of the first: {error}",
                    advice="give all chunks the same dtypes, for example with astype",
                ) from error
            yield from table.cast(schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    return write_godb(reader, path, collection, if_exists=if_exists, **options)


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
