"""Writers for other processes: parts of a collection and their commit."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.directory.data_directory import open_directory
from godb_arrow.documents.encoding import Encoded, encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of, stored_schema
from godb_arrow.engine.fragments import MEMORY, full_path
from godb_arrow.errors import (
    CollectionExists,
    InvalidOption,
    error_context,
)
from godb_arrow.memory.limit import Memory
from godb_arrow.options import CompressionName
from godb_arrow.query.statistics import covered, decode_statistics
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.snapshots.part_folder import PartFolder, WrittenPart

__all__ = ["PartWriter", "WriteMode", "commit_parts"]


WriteMode = Literal["error", "append", "overwrite"]
_PART = 64 << 20  # bytes of documents that are held until they become a file
_IDS_OF_A_WRITER = 1 << 32  # generated ids that each may give


@dataclass(frozen=True, slots=True)
class PartWriter:
    """Writes files of a collection, in any process that sees its folder; can be pickled.

    Parameters
    ----------
    directory : str
        The data directory.
    collection : str
        The collection.
    first_id : int
        The first number that is generated as an id.
    compression : str
        How the files are compressed.
    """

    directory: str
    collection: str
    first_id: int = 1
    compression: CompressionName = "lz4"

    @classmethod
    def of(
        cls, directory: str | os.PathLike[str], collection: str, mode: WriteMode = "append"
    ) -> PartWriter:
        """Prepare to write to a collection, which may be there already.

        Raises
        ------
        CollectionExists
            It is there, with mode "error".
        """
        from godb_arrow.engine.engine import StorageEngine

        if mode not in ("error", "append", "overwrite"):
            raise InvalidOption(f"mode is {mode!r}", advice="use error, append or overwrite")
        path = full_path(os.fspath(directory))
        with StorageEngine(path) as engine:
            if collection in engine:
                if mode == "error":
                    raise CollectionExists(
                        f"there is a collection {collection!r}",
                        advice='use mode="append" or "overwrite"',
                    )
            else:
                engine.create_collection(collection)
            found = engine[collection]
            found.to_folder()
            return cls(path, collection, found.next_id, found.compression)

    def write(self, data: Any, index: int) -> list[WrittenPart]:
        """Write documents as files, of about the usual size each.

        Parameters
        ----------
        data : DataFrame, Table, RecordBatchReader, Arrow stream or iterable of dicts
            The documents.
        index : int
            The number of this share: no two have the same.

        Returns
        -------
        list of WrittenPart
            For :func:`commit_parts`.
        """
        with error_context("write", self.directory, self.collection):
            rows = rows_of(data, None)
            sequence = IdSequence(self.first_id + index * _IDS_OF_A_WRITER)
            schema = None if rows.schema is None else stored_schema(rows.schema)
            fields = None if schema is None else covered(schema)
            directory = open_directory(self.directory, Memory(MEMORY), read_only=True)
            folder = directory.folder(directory.paths_of(self.collection)[-1])
            written: list[WrittenPart] = []
            waiting: list[Encoded] = []
            for one in encode_rows(rows, None, False, sequence, fields):
                waiting.append(one)
                if sum(len(encoded.chunk) for encoded in waiting) >= _PART:
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
            for one in encoded:
                codec.infer(one.entries(), summary)
            schema = infer_schema(summary)
        fields = covered(schema)

        def chunks() -> Iterator[Chunk]:
            for one in encoded:
                known = one.statistics or decode_statistics(one.entries(), fields)
                yield Chunk(one.chunk, len(one.ids), known)

        token = secrets.token_hex(16)
        count = sum(len(one.ids) for one in encoded)
        part, statistics = folder.write_part(
            token, self.collection, chunks(), count, schema, self.compression
        )
        greatest = max(codec.survey_ids(one.ids)[1] for one in encoded)
        return WrittenPart(token, part, schema.serialize().to_pybytes(), statistics, greatest)


def commit_parts(
    directory: str | os.PathLike[str],
    collection: str,
    written: Sequence[WrittenPart],
    mode: WriteMode = "append",
) -> int:
    """Make files that processes wrote part of a collection: all of them at once, or none.

    Parameters
    ----------
    directory : path
        The data directory; no engine may have it open to write.
    collection : str
        The collection.
    written : sequence of WrittenPart
        What the processes gave back; files of others are forgotten, and removed some time.
    mode : {"append", "overwrite", "error"}
        Whether they take the place of what is there.

    Returns
    -------
    int
        How many documents they have.

    Raises
    ------
    DuplicateId
        Documents share an id, or have one that is there.
    DirectoryLocked
        Somebody else writes the data directory.
    """
    from godb_arrow.engine.engine import StorageEngine

    with StorageEngine(directory) as engine:
        return engine[collection].take_parts(written, overwrite=mode == "overwrite")
