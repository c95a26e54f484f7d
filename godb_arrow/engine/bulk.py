"""Files of an insert that is larger than memory.

Documents become files of the collection while they are read. A manifest that names the files makes
all documents visible at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from itertools import compress, islice

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk, Rows
from godb_arrow.documents.encoding import Encoded
from godb_arrow.documents.ids import repeated_ids
from godb_arrow.engine.packed_ids import DocumentIds
from godb_arrow.errors import DuplicateId, GodbError
from godb_arrow.memory.limit import Counted
from godb_arrow.query.schema_join import join_schemas
from godb_arrow.query.statistics import Row, covered, decode_statistics
from godb_arrow.schema import DocumentSummary, fields_fit, infer_schema, is_partial
from godb_arrow.snapshots.deletions import IDS_AT_ONCE
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.snapshots.parted_base import PartedBase

__all__ = ["BulkInsert", "join_bases"]


class BulkInsert:
    """Writes documents to new files of a collection, which no manifest names before the commit.

    Parameters
    ----------
    base : PartedBase
        Documents of the collection when the insert began.
    name : str
        The collection.
    schema : pyarrow.Schema or None
        Schema of the documents, if known.
    part_bytes : int
        Bytes of documents that are kept in memory until they become a file.
    writing : callable
        Returns a context in which a file may be written.
    """

    def __init__(
        self,
        base: PartedBase,
        name: str,
        schema: pa.Schema | None,
        part_bytes: int,
        writing: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._folder = base.folder
        self._name = name
        self._base = base
        self._schema = schema
        self._part_bytes = part_bytes
        self._writing = writing
        self._summary = DocumentSummary()
        self._chunks: list[Chunk] = []
        self._size = 0
        self._counted = Counted(base.memory)  # of the documents that are not in a file yet
        self._known = Counted(base.memory)  # of the ids
        self._written: list[tuple[str, Part]] = []  # with the token of each file
        self._statistics: list[Row | None] = []
        self._hashes: list[bytes] = []
        self._ids: list[range | pa.Array] = []
        self._offered = False  # whether a manifest may name the files
        self.given = False
        self.greatest = 0
        self.count = 0

    def add(self, encoded: Encoded, *, replacing: bool = False) -> None:
        """Add documents.

        Parameters
        ----------
        encoded : Encoded
            The documents.
        replacing : bool
            Whether they replace documents of the collection that have the same ids.

        Raises
        ------
        DuplicateId
            The collection has some of their ids.
        """
        hashes, greatest = codec.survey_ids(encoded.ids)
        self._hashes.append(hashes)
        self._known.add(writes=len(hashes))
        if encoded.given:
            self.given = True
            self.greatest = max(self.greatest, greatest)
            if not replacing:
                self._check_new(encoded.ids)
        first = encoded.ids[0].as_py()
        generated = not encoded.given and int(encoded.ids[-1].as_py()) - int(first) + 1 == len(
            encoded.ids
        )
        if generated:
            start = int(first)
            self._ids.append(range(start, start + len(encoded.ids)))
        else:
            self._ids.append(encoded.ids)
            self._known.add(writes=encoded.ids.nbytes)
        entries = encoded.entries()
        if self._schema is None:
            codec.infer(entries, self._summary)
        statistics = encoded.statistics
        if statistics is None:
            statistics = decode_statistics(entries, covered(self._schema_so_far()))
        self._chunks.append(Chunk(encoded.chunk, len(encoded.ids), statistics))
        self._size += len(encoded.chunk)
        self._counted.add(writes=len(encoded.chunk))
        self.count += len(encoded.ids)
        if self._size >= self._part_bytes:
            self._write()

    def _schema_so_far(self) -> pa.Schema:
        return infer_schema(self._summary) if self._schema is None else self._schema

    def _check_new(self, ids: pa.Array) -> None:
        texts = [raw.decode("utf-8", "surrogateescape") for raw in ids.to_pylist()]
        there = self._base.rows_of(texts)
        if there:
            raise DuplicateId(
                sorted(there)[:10],
                advice="omit them, or insert fewer at a time with upsert_many",
            )

    def _write(self) -> None:
        if self._chunks:
            count = sum(chunk.documents for chunk in self._chunks)
            token = self._folder.reserve_token()
            with self._writing():
                part, statistics = self._folder.write_part(
                    token,
                    self._name,
                    iter(self._chunks),
                    count,
                    self._schema_so_far(),
                    self._base.manifest.compression,
                    self._base.manifest.indexes,
                )
            self._written.append((token, part))
            self._statistics.append(statistics)
            self._chunks, self._size = [], 0
            self._counted.release()
            self._base.memory.tidy()

    def finish(self) -> None:
        """Write the remaining documents, and check that no id occurs twice.

        Raises
        ------
        DuplicateId
        """
        self._write()
        joined = b"".join(self._hashes)
        if self.given and codec.has_equal(joined):
            repeated = repeated_ids(self.ids())
            if repeated:
                raise DuplicateId(repeated)

    def ids(self) -> DocumentIds:
        """Return the ids of the documents."""
        return DocumentIds(self._ids)

    def has_any(self, ids: Iterable[str]) -> list[str]:
        """Return those ids that the documents have, too."""
        hashes = np.sort(np.frombuffer(b"".join(self._hashes), np.uint64))
        near: set[str] = set()
        left = iter(ids if len(hashes) else ())
        while some := [*islice(left, IDS_AT_ONCE)]:
            wanted = np.fromiter(map(codec.hash_id, some), np.uint64, len(some))
            places = np.minimum(hashes.searchsorted(wanted), len(hashes) - 1)
            near.update(compress(some, hashes[places] == wanted))
        return [identity for identity in self.ids() if identity in near] if near else []

    def added_since(self, base: PartedBase) -> list[str]:
        """Return the ids that documents have, too, which came to the collection meanwhile."""
        before = {part.number for part in self._base.manifest.parts}
        own = np.sort(np.frombuffer(b"".join(self._hashes), np.uint64))
        near: set[int] = set()
        for part, file in zip(base.manifest.parts, base.parts, strict=True):
            if part.number not in before:
                near.update(np.intersect1d(own, file.ids().hashes).tolist())
        if not near:
            return []
        ids = [identity for identity in self.ids() if codec.hash_id(identity) in near]
        return sorted(base.rows_of(ids))

    def joined(
        self,
        base: PartedBase,
        next_id: int,
        directory: bytes,
        deleted: Rows | tuple[()] = (),
    ) -> tuple[Manifest, list[Row | None]]:
        """Return the manifest of a collection with the documents, and the statistics of its parts.

        Parameters
        ----------
        base : PartedBase
            The collection.
        next_id : int
            Number of the next generated id.
        directory : bytes
            UUID of the data directory.
        deleted : array of int64
            Rows of the collection's documents that they replace.
        """
        self._offered = True
        number = self._folder.next_number()
        parts = [
            self._folder.give_number(token, part, number + index)
            for index, (token, part) in enumerate(self._written)
        ]
        schemas = [self._schema_so_far()] if parts else []
        base = _without_rows(base, deleted) if len(deleted) else base
        return _with_parts(base, parts, self._statistics, schemas, next_id, directory)

    def discard(self) -> None:
        """Remove the files that have no number.

        A later save removes unused files that a manifest may have named.
        """
        self._folder.release_tokens([token for token, _ in self._written])
        if not self._offered:  # on an object store files have their numbers at once
            with suppress(GodbError):  # the next save removes them
                self._folder.remove_files([part for _, part in self._written if part.number])


def join_bases(
    base: PartedBase,
    parts: Sequence[Part],
    statistics: Sequence[Row | None],
    schemas: Sequence[pa.Schema],
    next_id: int,
    directory: bytes,
) -> tuple[Manifest, list[Row | None]]:
    """Return a manifest with further files, and the statistics of all files.

    Parameters
    ----------
    base : PartedBase
        The collection.
    parts, statistics, schemas : sequences
        The further files, and the statistics and schema of each.
    next_id : int
        Number of the next generated id.
    directory : bytes
        UUID of the data directory.

    Raises
    ------
    DuplicateId
        Documents share an id.
    """
    joined = _with_parts(base, parts, statistics, schemas, next_id, directory)
    together = PartedBase(base.folder, joined[0])
    hashes = b"".join(file.ids().hashes.tobytes() for file in together.parts)
    if codec.has_equal(hashes):
        deleted = set(together.deleted.tolist())
        repeated = repeated_ids(
            identity
            for row, run in together.loaded()
            for index, identity in enumerate(run.ids())
            if row + index not in deleted
        )
        if repeated:
            raise DuplicateId(repeated)
    return joined


def _without_rows(base: PartedBase, deleted: Rows | tuple[()]) -> PartedBase:
    """Return a collection with further rows deleted; rows keep their numbers."""
    rows = np.union1d(base.deleted, np.asarray(deleted, np.int64))
    parts = []
    for (start, _), part in zip(base.files(), base.manifest.parts, strict=True):
        first, last = np.searchsorted(rows, (start, start + part.documents))
        parts.append(replace(part, deleted=rows[first:last] - start))
    return PartedBase(base.folder, replace(base.manifest, parts=tuple(parts)))


def _with_parts(
    base: PartedBase,
    parts: Sequence[Part],
    statistics: Sequence[Row | None],
    schemas: Sequence[pa.Schema],
    next_id: int,
    directory: bytes,
) -> tuple[Manifest, list[Row | None]]:
    before = base.manifest
    schema = schemas[0] if schemas and not before.parts else base.schema()
    if not all(fields_fit(one, schema) for one in schemas):
        schema = _joined_schema(base, parts, schemas)
    manifest = replace(
        before,
        version=before.version + 1,
        parts=(*before.parts, *parts),
        schema=schema,
        next_id=next_id,
        rewrites=False,
        directory=directory,
    )
    return manifest, [*base.part_statistics()[: len(before.parts)], *statistics]


def _joined_schema(
    base: PartedBase, parts: Sequence[Part], schemas: Sequence[pa.Schema]
) -> pa.Schema:
    """Return the schema of a collection with further files, which have schemas of their own."""
    before = base.manifest
    recorded = base.schema() if before.parts else None
    added = PartedBase(base.folder, Manifest(0, tuple(parts), schemas[0], 0))
    summary = added.summary()

    def summarize_all() -> DocumentSummary:
        joined = DocumentSummary()
        base.join_into(joined)
        added.join_into(joined)
        return joined

    if summary.is_partial or (recorded is not None and is_partial(recorded)):
        return infer_schema(summarize_all())

    def runs() -> Iterator[codec.Entries]:
        return (run for _, run in added.loaded())

    return join_schemas(recorded, schemas, summary, runs, summarize_all)
