"""Folder of a collection's part files, and the parts that readers have open."""

from __future__ import annotations

import re
import secrets
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.documents.ids import ids_of
from godb_arrow.errors import (
    GodbError,
    SourceNotFound,
    StorageError,
    WriteConflict,
)
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.memory.limit import Memory
from godb_arrow.options import CompressionName
from godb_arrow.query.statistics import (
    Row,
    covered,
    pack_statistics,
    per_piece,
    row_of,
)
from godb_arrow.snapshots.base import Base, Pin, replaced
from godb_arrow.snapshots.id_index import (
    IdIndex,
    pack_id_file,
)
from godb_arrow.snapshots.index_run import IndexBuilders
from godb_arrow.snapshots.indexes import MergedRuns
from godb_arrow.snapshots.manifest import (
    Manifest,
    Part,
    is_part_name,
    manifest_name,
    read_manifest,
    versions_in,
    write_manifest,
)
from godb_arrow.snapshots.part_file import PartFile
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.sweep import Sweeper, files_of
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import number_in
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import TEMPORARY_PREFIX, is_temporary

__all__ = ["PartFolder", "PartPin"]

_FIRST_RANDOM_NUMBER = 1 << 60  # parts with this number or a higher one have a random number
_UNNUMBERED = re.compile(r"\.godb-arrow-[0-9a-f]{32}\.(godb|ids)")
"""Name of a part that another process wrote, until it gets its number."""


class PartedFiles(Protocol):
    """Protocol of the base of one version of a collection, for its folder."""

    @property
    def folder(self) -> PartFolder:
        """Folder of the files."""

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version."""

    @property
    def parts(self) -> list[PartFile]:
        """Parts of the version."""


class PartFolder:
    """Folder of a collection that has several files.

    Parameters
    ----------
    memory : Memory
        Cache for what is read, as far as there is room.
    folder : Folder or str
        The folder, or a path or URL that the user chose.
    is_ours : bool
        Whether no other program writes the folder.
    """

    def __init__(self, memory: Memory, folder: Folder | str, *, is_ours: bool = True) -> None:
        self.content = open_folder(folder) if isinstance(folder, str) else folder
        self.path = self.content.path
        self.memory = memory
        self.is_ours = is_ours
        self._made = UNLIMITED  # permissions with which this process created the folder
        self._access: Access | None = None  # of new parts
        self._lock = threading.Lock()
        self._files: weakref.WeakValueDictionary[int, PartFile] = weakref.WeakValueDictionary()
        self._pins: weakref.WeakSet[PartPin] = weakref.WeakSet()
        self._is_exclusive = is_ours and not is_url(self.path)  # no other process adds files
        self._sweeper = Sweeper(self.content, is_ours_name, is_exclusive=self._is_exclusive)
        self._last_number: int | None = None  # of a part file, if it is known
        self._tokens: set[str] = set()  # of parts that this process is writing
        self._unsure: Manifest | None = None  # manifest whose write may have succeeded or failed

    def versions(self) -> list[int]:
        """Return the versions that can be read, in order."""
        return versions_in(self.content.names())

    def current(self) -> Manifest:
        """Return the current manifest.

        Raises
        ------
        SourceNotFound
            The folder has no manifest.
        """
        for _ in range(10):  # A writer may remove a manifest that this reader is about to open.
            versions = self.versions()
            if not versions:
                break
            with suppress(SourceNotFound):
                return self.manifest(versions[-1])
        raise SourceNotFound(f"there is no manifest in {self.path}", advice="check the path")

    def check(self, manifest: Manifest) -> None:
        """Check that the files are those that a manifest names.

        Another process may remove the folder and create it again, with files of the same names.
        The files belong to the manifest while it exists, or while a later one names them.

        Raises
        ------
        SourceNotFound
            The files belong to another manifest.
        """
        try:
            current = read_manifest(self.content, manifest.version)
        except SourceNotFound:
            current = self.current()
            if current.version > manifest.version and _keys_of(manifest) <= _keys_of(current):
                return
        if (current.version, current.created) != (manifest.version, manifest.created):
            raise replaced(self.content.place(manifest_name(manifest.version)))

    def manifest(self, version: int) -> Manifest:
        """Return the manifest of a version.

        Raises
        ------
        SourceNotFound, CorruptFile, StorageError
        """
        return read_manifest(self.content, version)

    def access(self) -> Access:
        """Return the permissions that new files may have at most.

        The folder, its newest manifest and its newest part limit them, as of the time when a part
        last got a number.
        """
        if self._access is None:
            return self._access_with(self.content.names())
        return self._access

    def _access_with(self, names: list[str]) -> Access:
        newest = [manifest_name(version) for version in versions_in(names)[-1:]]
        newest += [Part(number, 0, 0, 0).file for number in _part_numbers(names)[-1:]]
        access = self.content.access() if newest else self.content.access() & self._made
        for name in newest:
            access &= self.content.access_of(name)
        self._access = access
        return access

    def file(self, manifest: Manifest, part: Part) -> PartFile:
        """Return the base of a part, which is shared as long as it is in use."""
        with self._lock:
            file = self._files.get(part.number)
            if file is None:
                file = self._files[part.number] = PartFile(
                    self.memory,
                    self.content,
                    manifest,
                    part,
                    is_ours=self.is_ours,
                    check=self.check,
                )
            return file

    def pin(self, base: PartedFiles) -> PartPin:
        """Keep the files of a base as long as the result exists."""
        pin = PartPin(base)
        with self._lock:
            self._pins.add(pin)
        return pin

    def hold_open(self) -> None:
        """Open the files that readers still need, before the folder is removed."""
        with self._lock:
            pins = list(self._pins)
        for pin in pins:
            pin.files = [file.pin() for file in pin.base.parts]

    # --- writing ------------------------------------------------------------------------------

    def make(self, access: Access) -> None:
        """Create the folder, unless it exists.

        Parameters
        ----------
        access : Access
            Permissions that a new folder, and its first files, have at most.
        """
        if self.content.check():
            return
        self.content.make(access)
        self._made = access

    def next_number(self) -> int:
        """Return the number of the next part, higher than the number of any file in the folder."""
        self.content.make()
        if self._last_number is None or not self._is_exclusive:
            names = self.content.names()
            self._access_with(names)
            numbers = (number for number in _part_numbers(names) if number < _FIRST_RANDOM_NUMBER)
            self._last_number = max(numbers, default=0)
        return self._last_number + 1

    def _note_number(self, number: int) -> None:
        if self._last_number is not None:
            self._last_number = max(self._last_number, number)

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
        indexes: Sequence[str] = (),
    ) -> list[tuple[Part, Row | None]]:
        """Write documents of a snapshot as new parts of about the same size.

        Parameters
        ----------
        name : str
            Name of the collection.
        snapshot : Snapshot
            Snapshot with the documents.
        files, changes
            Choice of documents; see :meth:`~godb_arrow.snapshots.snapshot.Snapshot.chunks`.
        count, size : int
            Number of these documents, and estimate of their bytes.
        part_size : int
            Maximum bytes of a part.
        schema : pyarrow.Schema
            Schema of the collection.
        compression : str
            Compression of the files.
        indexes : sequence of str
            Fields that have an index.

        Returns
        -------
        list of tuples
            Each new part with its statistics.
        """
        if not count:
            return []
        number = self.next_number()
        every = -(-count // max(1, -(-size // part_size)))
        chunks = snapshot.chunks(files, changes=changes, every=every)
        sources = snapshot.base.files() if files is None else files
        runs = MergedRuns(snapshot, sources, changes=changes, fields=indexes)
        written = []
        try:
            for first in range(0, count, every):
                documents = min(every, count - first)
                taken = _take(chunks, documents)
                written.append(
                    self.write_part(
                        number,
                        name,
                        taken,
                        documents,
                        schema,
                        compression,
                        runs=runs.packed(first, documents),
                    )
                )
                number += 1
            next(chunks, None)  # There is none, and the threads that read chunks end.
        except BaseException:
            self._sweeper.forget()  # No manifest names the parts that were written.
            raise
        return written

    def write_part(
        self,
        number: int | str,
        name: str,
        chunks: Iterator[Chunk],
        count: int,
        schema: pa.Schema,
        compression: CompressionName,
        indexes: Sequence[str] = (),
        runs: Callable[[], dict[str, bytes]] | None = None,
    ) -> tuple[Part, Row | None]:
        """Write a part and its id file, before any manifest names them.

        A part with a token instead of a number gets its number by :meth:`give_number`. The runs of
        its indexes are given, or built from the documents.
        """
        access = self.access()
        if isinstance(number, str) and is_url(self.path):
            # Object stores have no conditional rename, so two writers draw different numbers.
            number = _FIRST_RANDOM_NUMBER + secrets.randbelow(_FIRST_RANDOM_NUMBER)
        if isinstance(number, int):
            self._note_number(number)
        part = Part(0, count, 0, 0)
        stem = f"{number:08d}" if isinstance(number, int) else TEMPORARY_PREFIX + number
        new = self.content.expected_of_new
        size = 0
        rows: list[Row | None] = []
        ids: list[pa.Array] = []
        builders = IndexBuilders(indexes)

        def noted() -> Iterator[Chunk]:
            nonlocal size
            for chunk in chunks:
                size += len(chunk.data)
                rows.append(chunk.statistics)
                data = bytes(chunk.data)
                entries = codec.scan_entries(data, 0, chunk.documents, len(data) + 1, 0)
                ids.append(ids_of(entries))
                builders.add(entries)
                yield chunk

        hint = CollectionHint(count, None, schema, plain=True)
        with self.content.replace(stem + ".godb", access, expected=new) as stream:
            data = CollectionData(name, count, noted(), hint, runs or builders.packed_runs())
            write_file(stream, [data], compression=compression, threads=self.memory.threads)
        index = pack_id_file(IdIndex.build(ids))
        with self.content.replace(stem + ".ids", access, expected=new) as stream:
            stream.write(index)
        part = replace(
            part,
            number=number if isinstance(number, int) else 0,
            size=size,
            file_size=self.content.size(stem + ".godb"),
            ids_checksum=xxhash.xxh3_64_intdigest(index),
        )
        fields = covered(schema)
        joined = per_piece(rows, [0] * len(rows), fields) if rows and len(fields) else None
        return part, None if joined is None else row_of(joined, 0)

    def reserve_token(self) -> str:
        """Return a token for a part that gets its number later, reserved until it is released."""
        token = secrets.token_hex(16)
        self._tokens.add(token)
        return token

    def release_tokens(self, tokens: Sequence[str]) -> None:
        """Remove the files of tokens that got no number."""
        for token in tokens:
            for suffix in (".godb", ".ids"):
                with suppress(GodbError):  # The next save removes the file.
                    self.content.remove(TEMPORARY_PREFIX + token + suffix)
            self._tokens.discard(token)

    def give_number(self, token: str, part: Part, number: int) -> Part:
        """Assign a number to a part that another process wrote."""
        if part.number:  # The part has a number already.
            return part
        self._note_number(number)
        part = replace(part, number=number)
        for suffix, name in ((".godb", part.file), (".ids", part.ids_file)):
            self.content.rename(TEMPORARY_PREFIX + token + suffix, name)
        self.content.sync()
        return part

    @staticmethod
    def with_statistics(manifest: Manifest, statistics: Sequence[Row | None]) -> Manifest:
        """Return a manifest with the statistics of its parts."""
        fields = covered(manifest.schema)
        packed = b""
        if len(fields) and any(row is not None for row in statistics):
            joined = per_piece(statistics, range(len(statistics)), fields)
            packed = pack_statistics(joined)
        return replace(manifest, packed_statistics=packed)

    def commit(
        self,
        manifest: Manifest,
        statistics: Sequence[Row | None],
        announce: Callable[[Manifest], None] | None = None,
    ) -> Manifest:
        """Make a manifest the current version of the collection.

        Parameters
        ----------
        manifest : Manifest
            The state without statistics.
        statistics : sequence of Row or None
            Statistics of each part.
        announce : callable, optional
            Function that gets the manifest just before it is written.

        Returns
        -------
        Manifest
            The written manifest, with its time and statistics.
        """
        manifest = self.with_statistics(replace(manifest, created=time.time()), statistics)
        self.content.make()
        access = self.access() & self.content.access_of(manifest_name(manifest.version - 1))
        unsure = self._unsure
        if unsure is not None and unsure.version >= manifest.version and self._has(unsure):
            # The write had succeeded. This save has its changes, too, and follows as a new version.
            manifest = replace(manifest, version=unsure.version + 1)
        if announce is not None:
            announce(manifest)
        try:
            write_manifest(self.content, manifest, access)
        except WriteConflict:
            raise
        except StorageError:
            self._sweeper.forget()
            if not is_url(self.path):
                raise
            self._unsure = manifest  # The write may have succeeded, and only the response be lost.
            if not self._has(manifest):
                raise
        self._unsure = None
        self._sweeper.note(manifest)
        return manifest

    def _has(self, manifest: Manifest) -> bool:
        """Return whether this manifest exists, and not another one of the same version."""
        try:
            return self.manifest(manifest.version).pack() == manifest.pack()
        except SourceNotFound:
            return False

    def sweep(self, keep: int, grace: float) -> int:
        """Remove manifests that are too old, and files that no manifest or reader needs.

        Parameters
        ----------
        keep : int
            Number of the last versions that stay readable.
        grace : float
            Seconds for which a superseded version stays with its files, since readers in other
            processes may need it. Files that no version names yet stay as long.

        Returns
        -------
        int
            Number of files that were removed.
        """
        pinned: set[str] = set()
        with self._lock:
            for pin in self._pins:
                pinned |= files_of(pin.base.manifest)
            for token in self._tokens:
                pinned |= {TEMPORARY_PREFIX + token + suffix for suffix in (".godb", ".ids")}
        return self._sweeper.sweep(keep, grace, pinned)

    def remove_files(self, parts: Sequence[Part]) -> None:
        """Remove the files of parts that no manifest names."""
        self._sweeper.forget()
        for part in parts:
            for name in (part.file, part.ids_file):
                self.content.remove(name)

    def remove(self) -> None:
        """Remove the folder and the files that godb_arrow named; readers keep their files."""
        self.hold_open()
        with self._lock:
            self._files = weakref.WeakValueDictionary()  # Numbers are reused.
            self._last_number = None
            self._access = None
        self._sweeper.forget()
        # For other processes the collection is deleted once its manifests are removed.
        ours = self.content.files(is_ours_name)
        for name in sorted(ours, key=lambda name: not name.endswith(".manifest")):
            self.content.remove(name)
        if not self.content.remove_empty():
            self.content.sync()


def _part_numbers(names: Iterable[str]) -> list[int]:
    """Return the numbers of the part files among file names, in order."""
    numbers = (number_in(name, ".godb") for name in names)
    return sorted(number for number in numbers if number is not None)


def is_ours_name(name: str) -> bool:
    """Return whether a name is one that godb_arrow gives to files in a collection's folder."""
    return is_part_name(name) or is_temporary(name) or _UNNUMBERED.fullmatch(name) is not None


def _keys_of(manifest: Manifest) -> set[tuple[int, ...]]:
    """Return values that tell the files of a manifest from others of the same names."""
    return {
        (part.number, part.documents, part.size, part.file_size, part.ids_checksum)
        for part in manifest.parts
    }


def _take(chunks: Iterator[Chunk], documents: int) -> Iterator[Chunk]:
    """Yield the next chunks, up to a number of documents."""
    while documents:
        chunk = next(chunks)
        documents -= chunk.documents
        yield chunk


class PartPin(Pin):
    """Pin that keeps the files of a base of several files.

    Attributes
    ----------
    base : PartedFiles
        The base.
    files : list of Pin
        Pins of the files that must be open.
    """

    def __init__(self, base: PartedFiles) -> None:
        super().__init__()
        self.base = base
        self.files: list[Pin] = []
