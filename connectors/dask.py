"""Dask DataFrames from collections, with a partition for each file, and their parallel writing."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.engine.fragments import Fragment, fragments_of
from godb_arrow.engine.part_writer import PartWriter, commit_parts
from godb_arrow.errors import InvalidOption
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import IfExists
from godb_arrow.query.dataframe import to_frame
from godb_arrow.query.filters import Filter
from godb_arrow.query.projection import project
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.part_file import WrittenPart
from godb_arrow.storage.url_options import StorageOptions

try:
    import dask.dataframe as dd
    import pandas as pd
    from dask.base import compute
    from dask.delayed import delayed
except ImportError as error:
    raise missing("dask", "Dask") from error

if TYPE_CHECKING:
    from godb_arrow.query.dataframe import DtypeBackend

__all__ = ["read_godb", "to_godb"]


class _Read:
    """Function that Dask calls for each partition, with the columns that it needs."""

    def __init__(
        self, schema: pa.Schema, condition: Filter | None, dtype_backend: DtypeBackend | None
    ) -> None:
        self._schema = schema
        self._condition = condition
        self._dtype_backend = dtype_backend

    def __call__(self, fragment: Fragment, columns: Sequence[str] | None = None) -> pd.DataFrame:
        reader = fragment.open().stream_batches(
            self._schema.names if columns is None else list(columns),
            self._condition,
            self._schema,
        )
        return to_frame(reader.read_all(), self._dtype_backend)

    def meta(self) -> pd.DataFrame:
        """Return an empty DataFrame with all columns."""
        schema = project(self._schema, self._schema.names, None).schema
        return to_frame(schema.empty_table(), self._dtype_backend)


@explain_keywords
def read_godb(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    filter: Filter | None = None,
    dtype_backend: DtypeBackend | None = "pyarrow",
    storage_options: StorageOptions = None,
) -> dd.DataFrame:
    """Read a collection as a Dask DataFrame, with a partition for each of its files.

    Workers read the files themselves, so they must see the same paths. Columns that a computation
    does not use are not decoded. Files that the filter excludes by their statistics are skipped.

    Parameters
    ----------
    source : path or URL, or several
        A GODB file or several, a data directory, or the folder of a collection that has several
        files. Unsaved changes of a data directory are not read.
    collection : str, optional
        Name of the collection. Optional if there is only one.
    columns : sequence of str, optional
        Fields to read; all by default.
    filter : pyarrow.compute.Expression or mapping, optional
        Documents to keep; all by default.
    dtype_backend : {"pyarrow", "numpy_nullable"} or None
        Backend of the dtypes, default "pyarrow". With None, which stands for pandas' own dtypes,
        a partition with nulls may have other dtypes than one without.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, which all workers get.

    Returns
    -------
    dask.dataframe.DataFrame

    Examples
    --------
    >>> from godb_arrow.samples import FLIGHTS
    >>> flights = read_godb(FLIGHTS)
    >>> int(flights[flights.distance > 4000].dep_delay.count().compute())
    62
    """
    fragments, schema = fragments_of(source, collection, storage_options=storage_options)
    if columns is not None:
        needed = project(schema, columns, filter).decoded
        names = [name for name in schema.names if name in needed.names]
        schema = pa.schema([schema.field(name) for name in names], metadata=schema.metadata)
    read = _Read(schema, filter, dtype_backend)
    if fragments:
        frame = dd.from_map(  # type: ignore[no-untyped-call]
            read, fragments, meta=read.meta(), enforce_metadata=False
        )
    else:  # the collection has no documents
        frame = dd.from_pandas(read.meta(), npartitions=1)  # type: ignore[no-untyped-call]
    chosen: dd.DataFrame = frame if columns is None else frame[list(columns)]
    return chosen


@explain_keywords
def to_godb(
    frame: dd.DataFrame,
    directory: str | os.PathLike[str],
    collection: str,
    *,
    if_exists: IfExists = "error",
    storage_options: StorageOptions = None,
) -> int:
    """Write a Dask DataFrame into a data directory atomically.

    Each partition becomes a file, written where it is computed. At the end, one manifest names all
    of them. A partition that is computed twice leaves an unused file, which a later save removes.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        Rows to write. A column ``_id`` has the document ids. Without it they are generated, with
        gaps. The index becomes a column, unless it is one of numbers without a name.
    directory : path
        Data directory that all workers see. No engine may have it open for writing when this job
        begins and ends. Other jobs may run at the same time.
    collection : str
        Name of the collection.
    if_exists : {"error", "append", "replace"}
        Action if the collection exists, default "error".
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, which all workers get.

    Returns
    -------
    int
        Number of documents written.

    Raises
    ------
    CollectionExists, DuplicateId, DirectoryLocked
    InvalidOption
        The index has the name of a column.

    Examples
    --------
    >>> import tempfile, pandas as pd, dask.dataframe as dd
    >>> frame = dd.from_pandas(pd.DataFrame({"n": range(10)}), npartitions=2)
    >>> folder = tempfile.mkdtemp()
    >>> to_godb(frame, folder, "numbers")
    10
    >>> int(read_godb(folder, "numbers").n.sum().compute())
    45
    """
    index = _index_column(frame)
    has_ids = ID_FIELD in (*frame.columns, index)
    writer = PartWriter.of(
        directory,
        collection,
        if_exists,
        generate_ids=not has_ids,
        storage_options=storage_options,
    )
    write = delayed(_write, pure=False)
    partitions: list[Any] = frame.to_delayed()  # type: ignore[no-untyped-call]
    tasks = [write(writer, part, number, index) for number, part in enumerate(partitions)]
    written: Sequence[list[WrittenPart]] = compute(*tasks)  # type: ignore[no-untyped-call]
    parts = list(itertools.chain(*written))
    return commit_parts(directory, collection, parts, if_exists, storage_options=storage_options)


def _index_column(frame: dd.DataFrame) -> str | None:
    """Return the name of the column for an index; None for numbers without a name."""
    index: pd.Index = frame._meta.index
    if index.name is None and pd.api.types.is_integer_dtype(index.dtype):
        return None
    name = "index" if index.name is None else index.name
    if name in frame.columns:
        raise InvalidOption(
            f"the index has the name of the column {name!r}",
            advice="rename the index, or drop it with reset_index(drop=True)",
        )
    return str(name)


def _write(writer: PartWriter, frame: pd.DataFrame, number: int, index: str | None) -> Any:
    if index is not None:
        frame = frame.rename_axis(index).reset_index()
    table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata()
    return writer.write(table, number)
