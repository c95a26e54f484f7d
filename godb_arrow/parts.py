"""A collection of several files: their documents, one file behind the other, as one base."""

from __future__ import annotations

import secrets
import threading
import time
import weakref
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.base import Base, Documents, IdIndex, Pin, Rows, Wanted
from godb_arrow.codec.entries import Chunk
from godb_arrow.codec.runs import Run
from godb_arrow.encoding import ids_of
from godb_arrow.errors import CorruptFile, SourceNotFound, StorageError, WriteConflict
from godb_arrow.file_writer import CollectionData, write_file
from godb_arrow.format import CollectionHint
from godb_arrow.manifest import (
    Manifest,
    Part,
    manifest_name,
    read_manifest,
    versions_in,
    write_manifest,
)
from godb_arrow.memory.limit import Memory
from godb_arrow.options import CompressionName
from godb_arrow.projection import Projection
from godb_arrow.reading import StoredCollection
from godb_arrow.schema import DocumentSummary
from godb_arrow.snapshot import Snapshot
from godb_arrow.statistics import Row, covered, may_match, pack_statistics, per_piece, row_of
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import TEMPORARY_PREFIX, replace_file
from godb_arrow.storage.source import Source

__all__ = ["PartFile", "PartFolder", "PartedBase"]

_IDS_MAGIC = b"GODI\x01\x00\x00\x00"
_IDS_HEAD = 24
_ID_BYTES = 12
_DRAWN = 1 << 60  # numbers from here on are drawn by lot


class PartFile(Base):
    """One file of a collection, and beside it a file that says where its ids are."""

    def __init__(self, memory: Memory, folder: str, part: Part, *, is_ours: bool) -> None:
        files = open_folder(folder)
        super().__init__(memory, files.place(part.file), is_ours=is_ours)
        self._ids_path = files.place(part.ids_file)
        self._ids_checksum = part.ids_checksum
        self._part = part
        self.collection_size = 0  # bytes of the documents of all files together

    def open(self) -> StoredCollection:
        """The collection in its file, which is the one that the manifest names."""
        stored = super().open()
        if stored.count != self._part.documents:
            error = CorruptFile(
                f"the file has {stored.count} documents; the manifest says {self._part.documents}",
                offset=0,
                where="file",
                advice="restore it from a backup",
            )
            error.operation, error.source = "read", self.path
            raise error
        return stored

    def documents(self) -> Documents | None:
        """The documents in memory; None when there is no room for those of all files.

        Else a document here and there would have whole files come and go.
        """
        if self.view("documents") is None and 2 * self.collection_size > self.memory.room:
            return None
        return super().documents()

    def has_sound_ids(self) -> bool:
        """Whether the file that says where its ids are is as it was written."""
        return _read_ids(self._ids_path, self._ids_checksum) is not None

    def ids(self) -> IdIndex:
        """Where the ids are: mapped from their file, so that only what is looked at is read."""
        found: IdIndex | None = self.view("ids")
        if found is None:
            found = _read_ids(self._ids_path, self._ids_checksum)
            if found is None:
                return super().ids()
            # Of what is mapped the system can take the pages back.
            self.hold("ids", found, found.nbytes if is_url(self._ids_path) else 0)
        return found


def _read_ids(path: str, checksum: int) -> IdIndex | None:
    """The index of ids in a file; None where it is not as it was written: it can be made anew."""
    try:
        if is_url(path):
            with Source(path).open() as stream:
                data = np.frombuffer(stream.read(), np.uint8)
        else:
            data = np.memmap(path, np.uint8, "r")
    except (OSError, ValueError):
        return None
    if xxhash.xxh3_64_intdigest(data.data) != checksum or bytes(data[:8]) != _IDS_MAGIC:
        return None
    count, greatest = (int(one) for one in data[8:_IDS_HEAD].view("<u8"))
    if len(data) != _IDS_HEAD + _ID_BYTES * count:
        return None
    middle = _IDS_HEAD + 8 * count
    return IdIndex(data[_IDS_HEAD:middle].view("<u8"), data[middle:].view("<u4"), greatest)


def _pack_ids(index: IdIndex) -> bytes:
    head = _IDS_MAGIC + len(index.hashes).to_bytes(8, "little")
    head += index.greatest.to_bytes(8, "little")
    return head + index.hashes.astype("<u8").tobytes() + index.rows.astype("<u4").tobytes()


class PartFolder:
    """The folder of a collection that has several files.

    Parameters
    ----------
    memory : Memory
        Holds what is read, as far as there is room.
    path : str
        The folder.
    is_ours : bool
        Whether nobody else writes it.
    """

    def __init__(self, memory: Memory, path: str, *, is_ours: bool = True) -> None:
        self.path = path
        self.memory = memory
        self.is_ours = is_ours
        self._folder = open_folder(path)
        self._lock = threading.Lock()
        self._files: weakref.WeakValueDictionary[int, PartFile] = weakref.WeakValueDictionary()
        self._pins: weakref.WeakSet[_PartPin] = weakref.WeakSet()
        self._known: dict[int, tuple[float, frozenset[str]]] = {}  # when made, and which files
        self._unsure: Manifest | None = None  # whether it was written is not known

    def versions(self) -> list[int]:
        """The versions that can be read, in order."""
        return versions_in(self._folder.names())

    def current(self) -> Manifest:
        """The manifest that counts.

        Raises
        ------
        SourceNotFound
            There is none.
        """
        for _ in range(10):  # who only reads may be overtaken by who writes
            versions = self.versions()
            if not versions:
                break
            with suppress(SourceNotFound):
                return read_manifest(self.path, versions[-1])
        raise SourceNotFound(f"there is no manifest in {self.path}", advice="check the path")

    def file(self, part: Part) -> PartFile:
        """A part as a base; the same one as long as somebody has it."""
        with self._lock:
            found = self._files.get(part.number)
            if found is None:
                found = PartFile(self.memory, self.path, part, is_ours=self.is_ours)
                self._files[part.number] = found
            return found

    def pin(self, base: PartedBase) -> Pin:
        """Keep the files of a base as long as the result is there."""
        pin = _PartPin(base)
        with self._lock:
            self._pins.add(pin)
        return pin

    def hold_open(self) -> None:
        """Before the folder is removed: open what somebody still reads."""
        with self._lock:
            pins = list(self._pins)
        for pin in pins:
            pin.files = [file.pin() for file in pin.base.parts]

    # --- writing ------------------------------------------------------------------------------

    def next_number(self) -> int:
        """The number of the next part: greater than that of any file here."""
        self._folder.make()
        numbers = [int(name[:-5]) for name in self._folder.names()
                   if name.endswith(".godb") and name[:-5].isdigit()]  # fmt: skip
        return max((one for one in numbers if one < _DRAWN), default=0) + 1

    def write_parts(
        self,
        name: str,
        snapshot: Snapshot,
        files: Sequence[tuple[int, Base]] | None,
        *,
        changes: bool,
        count: int,
        size: int,
        part_size: int,
        schema: pa.Schema,
        compression: CompressionName,
    ) -> list[tuple[Part, Row | None]]:
        """Write documents of a snapshot as new parts of about the same size.

        Parameters
        ----------
        name : str
            The collection.
        snapshot : Snapshot
            Where the documents are.
        files, changes
            Which ones: see :meth:`~godb_arrow.snapshot.Snapshot.chunks`.
        count, size : int
            How many they are, and about how many bytes.
        part_size : int
            Bytes of a part, at most.
        schema : pyarrow.Schema
            That of the collection.
        compression : str
            How the files are compressed.

        Returns
        -------
        list of tuples
            Each part, and its statistics.
        """
        if not count:
            return []
        number = self.next_number()
        every = -(-count // max(1, -(-size // part_size)))
        chunks = snapshot.chunks(files, changes=changes, every=every)
        written = []
        for first in range(0, count, every):
            documents = min(every, count - first)
            taken = _take(chunks, documents)
            written.append(self.write_part(number, name, taken, documents, schema, compression))
            number += 1
        return written

    def write_part(
        self,
        number: int | str,
        name: str,
        chunks: Iterator[Chunk],
        count: int,
        schema: pa.Schema,
        compression: CompressionName,
    ) -> tuple[Part, Row | None]:
        """Write a part, with the file that says where its ids are; no manifest knows it yet.

        With a text in place of its number it is given one by :meth:`give_number`.
        """
        if isinstance(number, str) and is_url(self.path):
            # Nothing is renamed there on a condition: two writers must not choose the same.
            number = _DRAWN + secrets.randbelow(_DRAWN)
        part = Part(0, count, 0, 0)
        stem = f"{number:08d}" if isinstance(number, int) else TEMPORARY_PREFIX + number
        new = self._folder.expected_of_new
        size = 0
        rows: list[Row | None] = []
        ids: list[pa.Array] = []

        def noted() -> Iterator[Chunk]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk.data)
                rows.append(chunk.statistics)
                data = bytes(chunk.data)
                entries = codec.scan_entries(data, 0, chunk.documents, len(data) + 1, 0)
                ids.append(ids_of(entries))
                yield chunk

        hint = CollectionHint(count, None, schema, plain=True)
        with replace_file(self._folder.place(stem + ".godb"), expected=new) as stream:
            data = CollectionData(name, count, noted(), hint)
            write_file(stream, [data], compression=compression, threads=self.memory.threads)
        index = _pack_ids(IdIndex.build(ids))
        with replace_file(self._folder.place(stem + ".ids"), expected=new) as stream:
            stream.write(index)
        part = replace(
            part,
            number=number if isinstance(number, int) else 0,
            size=size,
            file_size=self._folder.size(stem + ".godb"),
            ids_checksum=xxhash.xxh3_64_intdigest(index),
        )
        fields = covered(schema)
        joined = per_piece(rows, [0] * len(rows), fields) if rows and len(fields) else None
        return part, None if joined is None else row_of(joined, 0)

    def give_number(self, token: str, part: Part, number: int) -> Part:
        """Give a part that another process wrote its number."""
        if part.number:  # it has one
            return part
        part = replace(part, number=number)
        for suffix, name in ((".godb", part.file), (".ids", part.ids_file)):
            self._folder.rename(TEMPORARY_PREFIX + token + suffix, name)
        self._folder.sync()
        return part

    @staticmethod
    def with_statistics(manifest: Manifest, statistics: Sequence[Row | None]) -> Manifest:
        """A manifest with the statistics of its parts."""
        fields = covered(manifest.schema)
        packed = b""
        if len(fields) and any(row is not None for row in statistics):
            joined = per_piece(statistics, range(len(statistics)), fields)
            packed = pack_statistics(joined)
        return replace(manifest, packed_statistics=packed)

    def commit(self, manifest: Manifest, statistics: Sequence[Row | None]) -> PartedBase:
        """Make a manifest the collection's state.

        Parameters
        ----------
        manifest : Manifest
            The state, but for its statistics.
        statistics : sequence of Row or None
            Those of each part.

        Returns
        -------
        PartedBase
        """
        manifest = self.with_statistics(replace(manifest, created=time.time()), statistics)
        self._folder.make()
        unsure = self._unsure
        if unsure is not None and unsure.version >= manifest.version and self._has(unsure):
            # It was written after all. What is saved now has its changes, too, and comes behind.
            manifest = replace(manifest, version=unsure.version + 1)
        try:
            write_manifest(self._folder, manifest)
        except WriteConflict:
            raise
        except StorageError:
            if not is_url(self.path):
                raise
            self._unsure = manifest  # perhaps only the answer was lost
            if not self._has(manifest):
                raise
        self._unsure = None
        return PartedBase(self, manifest)

    def _has(self, manifest: Manifest) -> bool:
        """Whether a manifest is there, and not another one of its version."""
        try:
            return read_manifest(self.path, manifest.version).pack() == manifest.pack()
        except SourceNotFound:
            return False

    def sweep(self, keep: int, grace: float) -> int:
        """Remove manifests that are too old, and files that no manifest or reader needs.

        Parameters
        ----------
        keep : int
            How many of the last versions stay readable.
        grace : float
            Seconds for which a version stays when there is a newer one, with its files, since who
            reads the folder from another process may have begun with it; and for which a file
            stays that no version names yet.

        Returns
        -------
        int
            How many files were removed.
        """
        versions = self.versions()
        self._known = {v: self._known.get(v) or self._look_at(v) for v in versions}
        since = time.time() - grace
        kept = [
            version for index, version in enumerate(versions)
            if index >= len(versions) - keep or self._known[versions[index + 1]][0] > since
        ]  # fmt: skip
        needed = set().union(*(self._known[version][1] for version in kept))
        with self._lock:
            for pin in self._pins:
                needed |= _names_of(pin.base.manifest)
        removed = 0
        for version in sorted({*versions} - {*kept}):
            self._folder.remove(manifest_name(version))
            removed += 1
        if removed:  # no manifest must be there without its files
            self._folder.sync()
        for name in self._folder.names():
            is_file = name.endswith((".godb", ".ids")) and name[:8].isdigit()
            if not (is_file and name not in needed) and not name.startswith(TEMPORARY_PREFIX):
                continue
            if self._folder.modified(name) <= since:
                self._folder.remove(name)
                removed += 1
        return removed

    def _look_at(self, version: int) -> tuple[float, frozenset[str]]:
        manifest = read_manifest(self.path, version)
        return manifest.created, _names_of(manifest)

    def remove_files(self, parts: Sequence[Part]) -> None:
        """Remove the files of parts that no manifest names."""
        for part in parts:
            for name in (part.file, part.ids_file):
                self._folder.remove(name)

    def remove(self) -> None:
        """Remove the folder with all that is in it; who reads it goes on."""
        self.hold_open()
        with self._lock:
            self._files = weakref.WeakValueDictionary()  # numbers are given again
            self._known = {}  # and so are versions
        self._folder.remove_all()

    def take_over(self, base: PartedBase) -> None:
        """Have the files of a collection's former folder here, too."""
        self._folder.make()
        for part in base.manifest.parts:
            for name in (part.file, part.ids_file):
                self._folder.share(base.folder._folder, name)
        self._folder.sync()


def _names_of(manifest: Manifest) -> frozenset[str]:
    """The files that a manifest names."""
    return frozenset(name for part in manifest.parts for name in (part.file, part.ids_file))


def _take(chunks: Iterator[Chunk], documents: int) -> Iterator[Chunk]:
    """The next chunks, until they have so many documents."""
    while documents:
        chunk = next(chunks)
        documents -= chunk.documents
        yield chunk


class _PartPin(Pin):
    """Somebody who reads a base of several files."""

    def __init__(self, base: PartedBase) -> None:
        self.base = base
        self.files: list[Pin] = []


class PartedBase(Base):
    """The documents of several files, one behind the other; immutable.

    Rows are numbered through all files; those that were deleted keep their numbers.

    Parameters
    ----------
    folder : PartFolder
        Where the files are.
    manifest : Manifest, optional
        Which version; read at first use, if left out: the current one.
    """

    def __init__(self, folder: PartFolder, manifest: Manifest | None = None) -> None:
        super().__init__(folder.memory, folder.path, is_ours=folder.is_ours)
        self.folder = folder
        self._manifest = manifest
        self._parts: list[PartFile] | None = None
        self._deleted: Rows | None = None

    @property
    def manifest(self) -> Manifest:
        """Which files there are, and what of them is deleted."""
        if self._manifest is None:
            self._manifest = self.folder.current()
        return self._manifest

    @property
    def parts(self) -> list[PartFile]:
        """The files; each is opened at first use."""
        if self._parts is None:
            self._parts = [self.folder.file(part) for part in self.manifest.parts]
            for file in self._parts:
                file.collection_size = self.manifest.size
        return self._parts

    def files(self) -> list[tuple[int, Base]]:
        """The row of each file's first document, and the file."""
        found: list[tuple[int, Base]] = []
        start = 0
        for part, file in zip(self.manifest.parts, self.parts, strict=True):
            found.append((start, file))
            start += part.documents
        return found

    def pin(self) -> Pin:
        """Keep the files as long as the result is there."""
        return self.folder.pin(self)

    def close_if_idle(self) -> None:
        """Nothing: each file is closed by itself."""

    @property
    def hint(self) -> CollectionHint:
        """What the manifest records."""
        found = self.manifest
        return CollectionHint(
            found.count, found.next_id, found.schema, found.size, found.record, found.indexes,
            plain=True, version=found.version, compression=found.compression,
        )  # fmt: skip

    @property
    def count(self) -> int:
        """How many rows there are, with those that were deleted."""
        return sum(part.documents for part in self.manifest.parts)

    @property
    def deleted(self) -> Rows:
        """The rows that were deleted, in order."""
        if self._deleted is None:
            starts = [start for start, _ in self.files()]
            rows = [part.deleted + start
                    for start, part in zip(starts, self.manifest.parts, strict=True)]  # fmt: skip
            self._deleted = np.concatenate(rows) if rows else np.empty(0, np.int64)
        return self._deleted

    @property
    def file_size(self) -> int:
        """Bytes of all files."""
        return sum(part.file_size for part in self.manifest.parts)

    @property
    def modified(self) -> float | None:
        """When the manifest was written."""
        return self.manifest.created

    # --- what is held in memory ---------------------------------------------------------------

    @property
    def is_loaded(self) -> bool:
        """Whether the documents are in memory."""
        return self._parts is not None and all(file.is_loaded for file in self._parts)

    @property
    def is_loading(self) -> bool:
        """Whether documents are being read into memory."""
        return self._parts is not None and any(file.is_loading for file in self._parts)

    def forget(self, successor: Base | None = None) -> None:
        """Give up what is held in memory, but for what a successor has, too."""
        super().forget()
        kept = set(successor.parts) if isinstance(successor, PartedBase) else set()
        for file in self._parts or ():
            if file not in kept:
                file.forget()

    def held_bytes(self) -> int:
        """Bytes that are held in memory."""
        return super().held_bytes() + sum(file.held_bytes() for file in self._parts or ())

    def documents(self) -> Documents | None:
        """Never all of them at once: each file has its own."""
        return None

    def prepare_ids(self) -> None:
        """Have all indexes of ids at hand."""
        for file in self.parts:
            file.ids()

    def pieces_matching(self, projection: Projection) -> Wanted | None:
        """Of each file, whether it, or which of its pieces, may have what a filter keeps."""
        condition = projection.implied
        if condition is None:
            return None
        statistics = self.manifest.statistics() if projection.needed else None
        wanted: list[bool | Wanted] = [True] * len(self.parts)
        if statistics is not None:
            wanted = list(may_match(statistics, condition, projection.needed, projection.decoded))
        for index, file in enumerate(self.parts):
            if wanted[index]:
                found = file.pieces_matching(projection)
                wanted[index] = True if found is None else found
        return None if all(one is True for one in wanted) else wanted

    def selected(self, wanted: Wanted | None) -> Iterator[tuple[int, Base, Wanted | None]]:
        """The files that are needed: first row, file, and what of it (all with None)."""
        for index, (start, file) in enumerate(self.files()):
            part = True if wanted is None else wanted[index]
            if part is not False:
                yield start, file, None if part is True else part

    def runs(self, wanted: Wanted | None = None, fields: tuple[str, ...] = ()) -> Iterator[Run]:
        """The documents in runs, to be loaded by whoever works on them."""
        for start, file, part in self.selected(wanted):
            for run in file.runs(part, fields):
                yield run._replace(start=run.start + start)

    def loaded(self, wanted: Wanted | None = None) -> Iterator[tuple[int, codec.Entries]]:
        """The entries in runs, and the row of each run's first."""
        for start, file, part in self.selected(wanted):
            for row, entries in file.loaded(part):
                yield row + start, entries

    # --- documents ----------------------------------------------------------------------------

    def _located(self, ids: Collection[str]) -> Iterator[tuple[str, int, codec.Entries, int]]:
        deleted = self.deleted
        for start, file in self.files():
            for identity, row, run, index in file._located(ids):
                at = int(deleted.searchsorted(row + start))
                if at == len(deleted) or deleted[at] != row + start:
                    yield identity, row + start, run, index

    def has(self, identity: str) -> bool:
        """Whether there is a document with an id."""
        return next(self._located([identity]), None) is not None

    def find(self, identity: str) -> bytes | None:
        """The bytes of a document."""
        found = [run.document(index) for _, _, run, index in self._located([identity])]
        return found[-1] if found else None

    def entries_at(self, rows: Rows) -> Iterator[tuple[codec.Entries, int]]:
        """The runs that have some rows, given in order, and the index of each there."""
        files = self.files()
        starts = [start for start, _ in files]
        at = 0
        while at < len(rows):
            index = bisect_right(starts, int(rows[at])) - 1
            start, file = files[index]
            last = int(np.searchsorted(rows, start + file.count))
            yield from file.entries_at(rows[at:last] - start)
            at = last

    def greatest_id(self) -> int:
        """The greatest id that is a number."""
        return max((file.greatest_id() for file in self.parts), default=0)

    # --- its schema ---------------------------------------------------------------------------

    def summary(self) -> DocumentSummary:
        """The kinds of value in its documents, with those that were deleted."""
        if self._summary is None:
            summary = DocumentSummary()
            for file in self.parts:
                summary.merge(file.summary())
            self._summary = summary
        return self._summary

    def part_statistics(self) -> list[Row | None]:
        """The statistics of each file."""
        found = self.manifest.statistics()
        if found is None:
            return [None] * len(self.manifest.parts)
        return [row_of(found, index) for index in range(len(found))]
