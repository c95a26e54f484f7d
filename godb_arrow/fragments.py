"""The files of a collection one by one, for engines that read and write them in many processes.

A fragment is what a process needs to read its share, and can be pickled. Documents are written as
files that nobody knows, wherever that is done; then one process makes all of them part of the
collection at once.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.encoding import Encoded, IdSequence, encode_rows, rows_of, stored_schema
from godb_arrow.errors import (
    CollectionExists,
    InvalidOption,
    SourceNotFound,
    VersionNotFound,
    error_context,
)
from godb_arrow.manifest import Manifest, Part, read_manifest
from godb_arrow.memory.limit import Memory
from godb_arrow.options import CompressionName
from godb_arrow.parts import PartedBase, PartFolder
from godb_arrow.persistence import open_directory
from godb_arrow.scannable import Scannable, open_godb
from godb_arrow.schema import DocumentSummary, infer_schema
from godb_arrow.statistics import Row, covered, decode_statistics
from godb_arrow.storage.object_store import RemoteStore, is_url
from godb_arrow.versions import CollectionVersion

__all__ = [
    "Fragment",
    "PartWriter",
    "WriteMode",
    "WrittenPart",
    "commit_parts",
    "fragments_of",
    "fragments_since",
    "latest_version",
]

WriteMode = Literal["error", "append", "overwrite"]

_MEMORY = 256 << 20  # of a process that reads or writes a fragment
_PART = 64 << 20  # bytes of documents that are held until they become a file
_IDS_OF_A_WRITER = 1 << 32  # generated ids that each may give


@dataclass(frozen=True, slots=True)
class Fragment:
    """A share of a collection, to be read by any process that sees its file.

    Attributes
    ----------
    path : str
        The file; or the folder of a collection that has several.
    collection : str
        The collection.
    manifest : bytes
        Which of the folder's files, and what of it is deleted; empty for a file.
    documents : int
        How many it has.
    """

    path: str
    collection: str
    manifest: bytes
    documents: int

    def open(self) -> Scannable:
        """The share as something to read."""
        if not self.manifest:
            return open_godb(self.path, self.collection)
        folder = PartFolder(Memory(_MEMORY), self.path, is_ours=False)
        return CollectionVersion(
            self.collection, PartedBase(folder, Manifest.unpack(self.manifest))
        )


def fragments_of(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    collection: str | None = None,
) -> tuple[list[Fragment], pa.Schema]:
    """The files of a collection, and its schema, as it was saved.

    Parameters
    ----------
    source : path or URL, or several
        A GODB file; a data directory, also on an object store; the folder of a collection that has
        several files; or many files that have the same collection.
    collection : str, optional
        Which collection. May be left out where there is one only.

    Returns
    -------
    fragments : list of Fragment
    schema : pyarrow.Schema
        Of all of them together.

    Raises
    ------
    CollectionNotFound, CollectionRequired, StorageError, FormatError

    Examples
    --------
    >>> from godb_arrow.samples import FLIGHTS
    >>> fragments, schema = fragments_of(FLIGHTS)
    >>> [one.documents for one in fragments], "dest" in schema.names
    ([27004], True)
    """
    if not isinstance(source, (str, os.PathLike)):
        found = [fragments_of(one, collection) for one in source]
        if not found:
            raise InvalidOption("there is no file", advice="give at least one")
        schema = pa.unify_schemas([one for _, one in found], promote_options="permissive")
        return [fragment for fragments, _ in found for fragment in fragments], schema
    path = os.fspath(source).rstrip("/")
    if _is_directory(path):
        return fragments_of(_place_of(path, collection), collection)
    if path.endswith(".parts") or (not is_url(path) and os.path.isdir(path)):
        folder = PartFolder(Memory(_MEMORY), path, is_ours=False)
        manifest = folder.current()
        statistics = PartedBase(folder, manifest).part_statistics()
        name = collection or os.path.basename(path.rstrip("/")).removesuffix(".parts")
        fragments = [
            _fragment(folder, name, manifest, part, row)
            for part, row in zip(manifest.parts, statistics, strict=True)
        ]
        return fragments, manifest.schema
    opened = open_godb(path, collection)
    return [Fragment(path, opened.name, b"", len(opened))], opened.schema


def _is_directory(path: str) -> bool:
    """Whether a place is a data directory, and no file or folder of a collection."""
    if is_url(path):
        return not path.endswith((".godb", ".parts")) and "collections" in RemoteStore(path).names()
    return os.path.isdir(os.path.join(path, "collections"))


def _whole(directory: str) -> str:
    """A data directory as every process finds it."""
    return directory if is_url(directory) else os.path.abspath(os.path.expanduser(directory))


def _fragment(
    folder: PartFolder, name: str, manifest: Manifest, part: Part, statistics: Row | None
) -> Fragment:
    alone = folder.with_statistics(replace(manifest, parts=(part,)), [statistics])
    return Fragment(folder.path, name, alone.pack(), part.live)


def _folder_of(directory: str, collection: str | None) -> tuple[PartFolder, str]:
    place = _place_of(_whole(directory), collection)
    name = collection or os.path.basename(place).removesuffix(".parts")
    if not place.endswith(".parts"):
        raise InvalidOption(
            f"the collection {name!r} has one file, of which nobody can say what is new",
            advice=f"have it in several from now on: engine[{name!r}].to_folder()",
        )
    return PartFolder(Memory(_MEMORY), place, is_ours=False), name


def latest_version(directory: str | os.PathLike[str], collection: str | None = None) -> int:
    """The version of a collection that was saved last.

    Parameters
    ----------
    directory : path
        The data directory.
    collection : str, optional
        Which collection. May be left out where there is one only.

    Returns
    -------
    int

    Raises
    ------
    InvalidOption
        The collection is not in several files.
    SourceNotFound
    """
    return _folder_of(os.fspath(directory), collection)[0].versions()[-1]


def fragments_since(
    directory: str | os.PathLike[str], collection: str | None, since: int, until: int
) -> list[Fragment]:
    """The documents that were added, or took others' place, from one version to another.

    Parameters
    ----------
    directory : path
        The data directory.
    collection : str, optional
        Which collection. May be left out where there is one only.
    since : int
        The version that is known; 0 for none: then all documents of the other.
    until : int
        The other.

    Returns
    -------
    list of Fragment

    Raises
    ------
    VersionNotFound
        Versions in between are gone: see ``keep_versions`` and ``part_grace``.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> folder = tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(folder) as engine:
    ...     events = engine.create_collection("events")
    ...     events.to_folder()
    ...     for n in range(2):
    ...         _ = events.insert({"n": n})
    ...         engine.save()
    >>> last = latest_version(folder)
    >>> [one.documents for one in fragments_since(folder, "events", last - 1, last)]
    [1]
    """
    folder, name = _folder_of(os.fspath(directory), collection)
    if not since:
        return _added(folder, name, None, _manifest(folder, until)) if until else []
    found: list[Fragment] = []
    before = _manifest(folder, since) if since < until else None
    for version in range(since + 1, until + 1):
        manifest = _manifest(folder, version)
        if not manifest.rewrites:
            found += _added(folder, name, before, manifest)
        before = manifest
    return found


def _manifest(folder: PartFolder, version: int) -> Manifest:
    try:
        return read_manifest(folder.path, version)
    except SourceNotFound as error:
        raise VersionNotFound(
            f"version {version} is gone, and with it what was new then",
            advice="raise keep_versions or part_grace of who writes; begin anew with all documents",
        ) from error


def _added(
    folder: PartFolder, name: str, before: Manifest | None, manifest: Manifest
) -> list[Fragment]:
    known = {part.number for part in before.parts} if before is not None else set()
    statistics = PartedBase(folder, manifest).part_statistics()
    return [
        _fragment(folder, name, manifest, part, row)
        for part, row in zip(manifest.parts, statistics, strict=True)
        if part.number not in known
    ]


def _place_of(directory: str, collection: str | None) -> str:
    files = open_directory(directory, Memory(_MEMORY), read_only=True).files()
    if collection is None and len(files) == 1:
        return next(iter(files.values()))
    if collection is None or collection not in files:
        known = ", ".join(map(repr, sorted(files)[:20]))
        raise SourceNotFound(
            f"there is no saved collection {collection!r} in {directory}"
            if collection else f"{directory} has {len(files)} collections",
            advice=f"name one of {known}" if files else "save one first",
        )  # fmt: skip
    return files[collection]


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """A file that some process wrote, which nobody knows yet.

    Attributes
    ----------
    token : str
        Its file is named by it.
    part : Part
        What it has.
    schema : bytes
        Of its documents.
    statistics : Row or None
        Of its documents.
    greatest : int
        The greatest id that is a number.
    """

    token: str
    part: Part
    schema: bytes
    statistics: Row | None
    greatest: int


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
        from godb_arrow.engine import StorageEngine

        if mode not in ("error", "append", "overwrite"):
            raise InvalidOption(f"mode is {mode!r}", advice="use error, append or overwrite")
        path = _whole(os.fspath(directory))
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
            directory = open_directory(self.directory, Memory(_MEMORY), read_only=True)
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
    from godb_arrow.engine import StorageEngine

    with StorageEngine(directory) as engine:
        return engine[collection].take_parts(written, overwrite=mode == "overwrite")
