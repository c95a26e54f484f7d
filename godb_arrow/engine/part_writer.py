"""Writers for other processes: parts of a collection and their commit."""

from __future__ import annotations

import os
import random
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.directory.opening import open_directory
from godb_arrow.directory.places import full_path
from godb_arrow.documents.encoding import Encoded, encode_rows
from godb_arrow.documents.ids import IDS_OF_A_JOB, SharedIds
from godb_arrow.documents.rows import rows_of, stored_schema
from godb_arrow.engine.collection import maintainer_of
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.engine.fragments import MEMORY
from godb_arrow.errors import (
    CollectionExists,
    DirectoryLocked,
    WriteConflict,
    error_context,
)
from godb_arrow.memory.limit import Memory
from godb_arrow.options import DEFAULT_DOCUMENT_BYTES, CompressionName, IfExists, check_if_exists
from godb_arrow.query.statistics import covered, decode_statistics
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.snapshots.part_file import WrittenPart
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["PartWriter", "commit_parts"]


_CHOICES = ("error", "append", "replace")  # of ``if_exists``
_PART_BYTES = 64 << 20  # of documents that are kept in memory until they become a file
_PLAN_SECONDS = 10.0  # to wait for other jobs that plan or commit
_COMMIT_SECONDS = 60.0  # to wait for them when a job has done its work
_POLL_SECONDS = 0.01, 0.1
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes files of a collection in any process with access to its folder; can be pickled.

    Parameters
    ----------
    directory : str
        The data directory.
    collection : str
        The collection.
    first_id : int or None
        First number that is reserved for generated ids; None if no number is reserved.
    compression : str
        Compression of the files, default "lz4".
    max_document_bytes : int
        Max bytes of a document with its id, default 64 MiB, as the engine's option.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL. They are not in the repr.
    """

    directory: str
    collection: str
    first_id: int | None = None
    compression: CompressionName = "lz4"
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES
    storage_options: StorageOptions = field(default=None, repr=False)

    @classmethod
    def of(
        cls,
        directory: str | os.PathLike[str],
        collection: str,
        if_exists: IfExists = "append",
        *,
        generate_ids: bool = True,
        storage_options: StorageOptions = None,
    ) -> PartWriter:
        """Prepare to write to a new or existing collection.

        Parameters
        ----------
        directory : path
            The data directory.
        collection : str
            Name of the collection. It is created if it does not exist.
        if_exists : {"error", "append", "replace"}
            Action if the collection exists, default "append".
        generate_ids : bool
            Whether documents may have no ids, default True. Then numbers are reserved for this
            job, and no other writer of the collection gets them.
        storage_options : mapping, optional
            Keyword arguments for the file system of a URL, which the writer keeps.

        Raises
        ------
        CollectionExists
            The collection exists, with ``if_exists="error"``.
        DirectoryLocked
            Another process writes the data directory.
        """
        check_if_exists(if_exists, _CHOICES)
        path = full_path(directory)

        def plan(engine: StorageEngine) -> PartWriter:
            if collection in engine:
                if if_exists == "error":
                    raise CollectionExists(
                        f"there is a collection {collection!r}",
                        advice='use if_exists="append" or "replace"',
                    )
            else:
                engine.create_collection(collection)
            target = engine[collection]
            first = None
            if generate_ids:
                first = maintainer_of(target).reserve_ids(IDS_OF_A_JOB)
            target.to_folder()
            compression = target.compression
            return cls(path, collection, first, compression, storage_options=storage_options)

        return _in_turn(path, plan, _PLAN_SECONDS, storage_options)

    def write(self, data: Any, index: int) -> list[WrittenPart]:
        """Write documents as part files.

        Parameters
        ----------
        data : DataFrame, Table, RecordBatchReader, Arrow stream or iterable of dicts
            The documents.
        index : int
            Number of this share, from 0, unique within the job.

        Returns
        -------
        list of WrittenPart
            Files, for :func:`commit_parts`.

        Raises
        ------
        LimitExceeded
            More ids would be generated than are reserved for a share. At most 2**32 are reserved,
            fewer for many shares, and none without ``generate_ids``.
        """
        with (
            with_options(self.directory, self.storage_options),
            error_context("write", self.directory, self.collection),
        ):
            rows = rows_of(data, None)
            sequence = SharedIds(self.first_id, index)
            schema = None if rows.schema is None else stored_schema(rows.schema)
            fields = None if schema is None else covered(schema)
            directory = open_directory(self.directory, Memory(MEMORY), read_only=True)
            folder = directory.folder(directory.paths_of(self.collection)[-1])
            written: list[WrittenPart] = []
            waiting: list[Encoded] = []
            limit = self.max_document_bytes
            for run in encode_rows(rows, None, False, sequence, fields, max_document_bytes=limit):
                waiting.append(run)
                if sum(len(encoded.chunk) for encoded in waiting) >= _PART_BYTES:
                    written.append(self._write(folder, waiting, schema))
                    waiting = []
            if waiting:
                written.append(self._write(folder, waiting, schema))
            return written

    def _write(
        self, folder: PartFolder, encoded: list[Encoded], schema: pa.Schema | None
    ) -> WrittenPart:
        if schema is None:
            summary = DocumentSummary()
            for run in encoded:
                codec.infer(run.entries(), summary)
            schema = infer_schema(summary)
        fields = covered(schema)

        def chunks() -> Iterator[Chunk]:
            for run in encoded:
                known = run.statistics or decode_statistics(run.entries(), fields)
                yield Chunk(run.chunk, len(run.ids), known)

        token = secrets.token_hex(16)
        count = sum(len(run.ids) for run in encoded)
        part, statistics = folder.write_part(
            token, self.collection, chunks(), count, schema, self.compression
        )
        greatest = max(codec.survey_ids(run.ids)[1] for run in encoded)
        return WrittenPart(token, part, schema.serialize().to_pybytes(), statistics, greatest)


def commit_parts(
    directory: str | os.PathLike[str],
    collection: str,
    written: Sequence[WrittenPart],
    if_exists: IfExists = "append",
    *,
    storage_options: StorageOptions = None,
) -> int:
    """Add the files that processes wrote to a collection: all of them or, on an error, none.

    Parameters
    ----------
    directory : path
        Data directory. No engine may have it open for writing.
    collection : str
        The collection.
    written : sequence of WrittenPart
        Results of the processes. A later save removes the files of other results.
    if_exists : {"error", "append", "replace"}
        Whether the files replace the documents of the collection, default append.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL.

    Returns
    -------
    int
        Number of documents.

    Raises
    ------
    DuplicateId
        Documents share an id, or have an id of the collection.
    DirectoryLocked
        Another process writes the data directory.
    """

    def commit(engine: StorageEngine) -> int:
        maintainer = maintainer_of(engine[collection])
        return maintainer.commit_parts(written, replaces=if_exists == "replace")

    return _in_turn(directory, commit, _COMMIT_SECONDS, storage_options, create=False)


def _in_turn(
    directory: str | os.PathLike[str],
    work: Callable[[StorageEngine], _Result],
    seconds: float,
    storage_options: StorageOptions,
    *,
    create: bool = True,
) -> _Result:
    """Call a function with an engine, once no other process writes the data directory.

    An object store has no lock: there the function is called again if another process saved first.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            engine = StorageEngine(directory, create=create, storage_options=storage_options)
            try:
                result = work(engine)
                engine.close()
            except BaseException:
                engine.close(discard=True)
                raise
            return result
        except (DirectoryLocked, WriteConflict):
            if time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(*_POLL_SECONDS))
