"""Collections as datasets of pyarrow, for engines that push projections and filters down to one."""

from __future__ import annotations

import atexit
import ctypes
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Unpack

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs

from godb_arrow.arrow_compute import pc
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import names_in

__all__ = ["CollectionDataset", "ReadableCollection"]

_FILE = "collection"
_SECONDS_AT_EXIT = 0.2

_DATASETS: weakref.WeakSet[CollectionDataset] = weakref.WeakSet()
_FILES: weakref.WeakSet[_Files] = weakref.WeakSet()
_SCANS: weakref.WeakSet[_Batches] = weakref.WeakSet()


class ReadableCollection(Protocol):
    """A collection as a dataset reads it: a schema, a length, and streams of record batches."""

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""

    def __len__(self) -> int: ...

    def stream_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        schema: pa.Schema | None = None,
        **options: Unpack[ReadKeywords],
    ) -> pa.RecordBatchReader:
        """Return the documents that match a filter as record batches."""


class CollectionDataset(ds.UnionDataset):  # type: ignore[misc]
    """Dataset of one fragment, which reads a collection again for each scan.

    Projection and filter reach the decoder. What DuckDB, DataFusion and others ask of a
    ``pyarrow.dataset.Dataset`` is no published protocol; tests pin it.

    Parameters
    ----------
    collection : ReadableCollection
        Collection to read.
    filter : pyarrow.compute.Expression, optional
        Condition of all scans.

    Notes
    -----
    Functions of Arrow that scan a dataset in C++, such as ``join`` and ``Scanner.from_dataset``,
    read the whole collection through a temporary Arrow file.
    """

    def __init__(self, collection: ReadableCollection, filter: pc.Expression | None = None) -> None:
        self._collection = collection
        self._filter = filter
        filesystem = pyarrow.fs.PyFileSystem(_Files(collection, filter))
        self._filesystem = filesystem
        _DATASETS.add(self)
        file_format = ds.IpcFileFormat()
        fragment = file_format.make_fragment(_FILE, filesystem)
        schema = collection.schema
        file = ds.FileSystemDataset([fragment], schema, file_format, filesystem)
        super().__init__(schema, [file])

    def __reduce__(self) -> tuple[Any, ...]:
        return CollectionDataset, (self._collection, self._filter)

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return self._collection.schema

    def scanner(
        self,
        columns: Sequence[str] | Mapping[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        """Return a scanner, as ``pyarrow.dataset.Dataset.scanner`` does."""
        if isinstance(columns, Mapping):
            needed = dict.fromkeys(name for value in columns.values() for name in names_in(value))
            # A column keeps the number of rows where expressions name no field.
            names = list(needed) or self.schema.names[:1]
            reader = self.reader(names, filter, **options)
            return ds.Scanner.from_batches(_scanned(reader), columns=dict(columns))
        return ds.Scanner.from_batches(self.reader(columns, filter, **options))

    def reader(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> pa.RecordBatchReader:
        """Return the record batches of a scan, without the threads of a ``Scanner``."""
        chosen: ReadKeywords = (
            {"batch_size": options["batch_size"]} if options.get("batch_size") else {}
        )
        names = None if columns is None else list(columns)
        return self._collection.stream_batches(names, self._with_own(filter), **chosen)

    def filter(self, expression: pc.Expression | None) -> CollectionDataset:
        """Return a dataset of the documents that match a condition, too."""
        return CollectionDataset(self._collection, self._with_own(expression))

    def _with_own(self, filter: pc.Expression | None) -> pc.Expression | None:
        if self._filter is None or filter is None:
            return self._filter if filter is None else filter
        return self._filter & filter

    def get_fragments(self, filter: pc.Expression | None = None) -> Iterator[_CollectionFragment]:
        """Yield the collection as one fragment."""
        yield _CollectionFragment(self)

    def to_batches(self, **options: Any) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a scan."""
        return self.scanner(**options).to_batches()  # type: ignore[no-any-return]

    def to_table(self, **options: Any) -> pa.Table:
        """Return the table of a scan."""
        return self.scanner(**options).to_table()

    def take(self, indices: Any, **options: Any) -> pa.Table:
        """Return the rows of a scan at some positions."""
        return self.scanner(**options).take(indices)

    def head(self, num_rows: int, **options: Any) -> pa.Table:
        """Return the first rows of a scan."""
        return self.scanner(**options).head(num_rows)

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:
        """Return the number of documents, or of those that a filter keeps."""
        condition = self._with_own(filter)
        if condition is None:
            return len(self._collection)
        reader = self._collection.stream_batches([], condition)
        return sum(batch.num_rows for batch in reader)

    def __repr__(self) -> str:
        return f"<CollectionDataset of {self._collection!r}>"


class _CollectionFragment:
    """Fragment of a dataset, with the methods of ``pyarrow.dataset.Fragment``.

    It is no subclass: Arrow's C++ would follow a pointer that a subclass in Python lacks.
    """

    def __init__(self, dataset: CollectionDataset) -> None:
        self._dataset = dataset

    @property
    def physical_schema(self) -> pa.Schema:
        return self._dataset.schema

    @property
    def partition_expression(self) -> pc.Expression:
        return pc.scalar(True)

    def scanner(
        self,
        schema: pa.Schema | None = None,
        columns: Sequence[str] | Mapping[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> ds.Scanner:
        return self._dataset.scanner(columns, filter, **options)

    def to_batches(self, schema: pa.Schema | None = None, **options: Any) -> Any:
        return self.scanner(schema, **options).to_batches()

    def to_table(self, schema: pa.Schema | None = None, **options: Any) -> pa.Table:
        return self.scanner(schema, **options).to_table()

    def take(self, indices: Any, **options: Any) -> pa.Table:
        return self.scanner(**options).take(indices)

    def head(self, num_rows: int, **options: Any) -> pa.Table:
        return self.scanner(**options).head(num_rows)

    def count_rows(self, filter: pc.Expression | None = None, **options: Any) -> int:
        return self._dataset.count_rows(filter)


class _Batches:
    """Record batches of a scan, which exist until the threads of Arrow drop them."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader
        _SCANS.add(self)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        batch = next(self._reader)
        # Arrow's threads may drop buffers after the interpreter has ended: none of Python.
        columns = [pa.concat_arrays([column, column.slice(0, 0)]) for column in batch.columns]
        return pa.RecordBatch.from_arrays(columns, schema=batch.schema) if columns else batch


def _scanned(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Return the same record batches, for a scan that uses threads of Arrow."""
    return pa.RecordBatchReader.from_batches(reader.schema, _Batches(reader))


class _Files(pyarrow.fs.FileSystemHandler):  # type: ignore[misc]
    """File system of one Arrow file, which is made of a collection when it is opened."""

    def __init__(self, collection: ReadableCollection, filter: pc.Expression | None) -> None:
        self._collection = collection
        self._filter = filter
        _FILES.add(self)

    def get_type_name(self) -> str:
        return "godb_arrow"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        return [pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.File) for path in paths]

    def get_file_info_selector(self, selector: Any) -> list[pyarrow.fs.FileInfo]:
        return self.get_file_info([_FILE])

    def open_input_file(self, path: str) -> pa.NativeFile:
        # Arrow drops its files on threads that may outlive the interpreter: no file of Python.
        folder = tempfile.mkdtemp(prefix="godb_arrow-")
        try:
            spool = os.path.join(folder, _FILE)
            with (
                self._collection.stream_batches(None, self._filter) as reader,
                pa.ipc.new_file(spool, reader.schema) as writer,
            ):
                for batch in reader:
                    writer.write_batch(batch)
            return pa.OSFile(spool)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self.open_input_file(path)

    def _refuse(self, *arguments: Any, **options: Any) -> Any:
        raise NotImplementedError("a collection cannot be written as a file of a dataset")

    create_dir = delete_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    delete_file = move = copy_file = open_output_stream = open_append_stream = _refuse


@atexit.register
def _keep_file_systems() -> None:
    """Keep file systems until the process ends, and wait for the threads of scans.

    Threads of Arrow drop what a scan used some time after it. Where the interpreter has ended
    meanwhile, dropping an object of Python kills the process.
    """
    kept = [dataset._filesystem for dataset in _DATASETS]
    for filesystem in kept:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(filesystem))
    end = time.monotonic() + _SECONDS_AT_EXIT
    while (_SCANS or len(_FILES) > len(kept)) and time.monotonic() < end:
        time.sleep(0.001)
