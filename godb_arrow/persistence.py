"""The data directory: who writes it, what is in it, and how a collection gets into its file.

::

    data_dir/
        godb_arrow.lock             held by the one process that writes
        collections/NAME.godb       one collection each, replaced atomically
        collections/NAME.parts/     a large one: several files, and manifests that name them
        journal/00000001.journal    changes that are in no file yet
        follower.json               there while it follows another one
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, BinaryIO

import filelock
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from godb_arrow import codec
from godb_arrow.base import Base, Rows
from godb_arrow.errors import (
    CorruptFile,
    DirectoryLocked,
    GodbError,
    InvalidCollectionName,
    ReadOnly,
    SourceNotFound,
    StorageError,
    WriteConflict,
    storage_errors,
)
from godb_arrow.file_writer import CollectionData, write_file
from godb_arrow.format import CollectionHint
from godb_arrow.journal import Journal, Record, read_journal
from godb_arrow.journal_copy import fetch_journal
from godb_arrow.manifest import Manifest, Part
from godb_arrow.memory.limit import Memory
from godb_arrow.options import CompressionName
from godb_arrow.parts import PartedBase, PartFolder
from godb_arrow.projection import project
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshot import Snapshot
from godb_arrow.statistics import Row
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.replace import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, replace_file
from godb_arrow.storage.source import Source, file_name
from godb_arrow.writing import read_existing

__all__ = [
    "FOLLOWER_FILE",
    "DataDirectory",
    "RemoteDirectory",
    "check_name",
    "join_parts",
    "lock_directory",
    "open_directory",
    "place_for",
    "read_follower_file",
    "save_snapshot",
    "write_snapshots",
]

logger = logging.getLogger(__name__)

FOLLOWER_FILE = "follower.json"
_SUFFIX = ".godb"
_PARTS = ".parts"
_MAX_NAME = 255
_LEAST_MEMORY = 64 << 20
_TRIES = 10
_MAX_STEM = 200
_HASHED = "%~"  # an escaped name never has it


def check_name(name: object) -> str:
    """A name that a collection may have: 1 to 255 bytes of UTF-8.

    Raises
    ------
    InvalidCollectionName
    """
    problem = None
    if not isinstance(name, str):
        raise InvalidCollectionName(f"the name is {name!r}", advice="give a string")
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        problem = "is not valid UTF-8"
    else:
        if not 1 <= size <= _MAX_NAME:
            problem = f"has {size} bytes"
    if problem:
        raise InvalidCollectionName(
            f"the name {name[:50]!r} {problem}", advice="a name has 1 to 255 bytes of UTF-8"
        )
    return name


def _stem(name: str) -> str:
    stem = file_name(name)
    if len(stem.encode()) <= _MAX_STEM:
        return stem
    return (
        stem.encode()[:80].decode(errors="ignore")
        + _HASHED
        + xxhash.xxh3_128_hexdigest(name.encode())
    )


def _name_of(stem: str) -> str | None:
    """The collection's name for a file's; None where only the file itself can tell."""
    if _HASHED in stem:
        return None
    raw = re.sub(
        rb"%([0-9A-F]{2})",
        lambda match: bytes([int(match[1], 16)]),
        stem.encode("utf-8", "surrogateescape"),
    )
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def lock_directory(path: str) -> filelock.BaseFileLock:
    """Be the one who writes a data directory, until the lock is released.

    Raises
    ------
    DirectoryLocked
    """
    lock = filelock.FileLock(os.path.join(path, "godb_arrow.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        locked = DirectoryLocked(
            "another process writes this data directory",
            advice="close it there, or open it with read_only=True",
        )
        locked.operation, locked.source = "open", path
        raise locked from error
    return lock


def read_follower_file(path: str) -> dict[str, Any] | None:
    """What a data directory that follows another one says of itself; None where it follows none.

    Raises
    ------
    CorruptFile
    """
    file = open_folder(path).place(FOLLOWER_FILE)
    try:
        with Source(file).open() as stream:
            found = json.loads(stream.read())
        return {
            "source": str(found["source"]),
            "consistent": bool(found["consistent"]),
            "caught_up": None if found["caught_up"] is None else float(found["caught_up"]),
            "record": int(found["record"]),
            "promoting": bool(found.get("promoting", False)),
            "files": {
                _checked_path(name): (int(size), int(changed))
                for name, (size, changed) in found.get("files", {}).items()
            },
        }
    except SourceNotFound:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptFile(
            f"{file} is damaged: {error!r}",
            offset=0,
            where="file",
            advice="follow again into another folder",
        ) from error


def _checked_path(name: str) -> str:
    """A file's name below a folder, which it cannot leave."""
    if any(part in ("", ".", "..") for part in name.split("/")) or "\\" in name:
        raise ValueError(f"the file name {name!r}")
    return name


class DataDirectory:
    """A data directory that is open.

    Parameters
    ----------
    path : path
        The folder; made, unless it is opened to read only.
    memory : Memory, optional
        Holds what is read of its files.
    read_only : bool
        Whether to leave everything as it is.

    Raises
    ------
    DirectoryLocked
        Another process, or another engine of this one, writes it.
    StorageError
        The disk refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: Memory | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self.memory = memory or Memory(_LEAST_MEMORY)
        self._folders: dict[str, PartFolder] = {}
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.read_only = read_only
        self._collections = os.path.join(self.path, "collections")
        self._journal_folder = os.path.join(self.path, "journal")
        self._lock: filelock.BaseFileLock | None = None
        self._journal: Journal | None = None
        if read_only:
            if not os.path.isdir(self.path):
                raise SourceNotFound(f"there is no folder {self.path}", advice="check the path")
            self._check_follower()
            return
        self._check_follower()
        with storage_errors("open", self.path):
            for folder in (self._collections, self._journal_folder):
                local.make_folders(folder)
            self._lock = lock_directory(self.path)
            try:
                self._remove_temporaries()
            except BaseException:
                self._lock.release()
                raise

    def _remove_temporaries(self) -> None:
        for name in os.listdir(self._collections):
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
                local.disk.unlink(os.path.join(self._collections, name))

    def _check_follower(self) -> dict[str, Any] | None:
        """Raise if it follows another one, and cannot be opened so; else what it says of that."""
        follower = read_follower_file(self.path)
        if follower is None:
            return None
        if self.read_only and not follower["consistent"]:
            raise StorageError(
                f"{self.path} is a follower that is being brought up to date",
                advice="try again in a moment",
            )
        if not self.read_only and not follower["promoting"]:
            raise ReadOnly(
                f"{self.path} is a follower of another data directory",
                advice="open it with read_only=True, or promote it first",
            )
        return follower

    @property
    def keeps_journal(self) -> bool:
        """Whether the journal is there after a crash."""
        return True

    @property
    def journal(self) -> Journal:
        """The journal, of a directory that may be written."""
        assert self._journal is not None
        return self._journal

    def recover(self) -> Iterator[Record]:
        """The changes that may be in no file yet; at the end the journal goes on."""
        if self.read_only:
            yield from self._read_while_written()
            return
        journal = Journal(self._journal_folder)
        yield from journal.recover()
        self._journal = journal

    def _read_while_written(self) -> list[Record]:
        """The records of a journal whose segments somebody else may remove meanwhile."""
        for _ in range(_TRIES):
            if not os.path.isdir(self._journal_folder):
                return []
            try:
                return list(read_journal(self._journal_folder))
            except SourceNotFound:
                continue
        return list(read_journal(self._journal_folder))

    def files(self) -> dict[str, str]:
        """The collections that have a file, and its path."""
        place = open_folder(self._collections)
        names = place.names()
        files = [f for f in names if f.endswith(_SUFFIX) and not f.startswith(TEMPORARY_PREFIX)]
        found = _named({file: place.place(file) for file in files})
        for path in [place.place(one) for one in names if one.endswith(_PARTS)]:
            if (name := self._name_of_folder(path)) is not None:
                found[name] = self._newer(path, found[name]) if name in found else path
        return found

    def _name_of_folder(self, path: str) -> str | None:
        """The collection that a folder has; None where it has none."""
        folder = self.folder(path)
        if not folder.versions():
            return None
        name = _name_of(os.path.basename(path).removesuffix(_PARTS))
        if name is None:
            manifest = folder.current()
            name = manifest.name or None
            if name is None and manifest.parts:
                name = _stored_name(open_folder(path).place(manifest.parts[0].file))
        return name

    def _newer(self, folder: str, file: str) -> str:
        """Which of the two has the collection: a crash left both."""
        with suppress(GodbError):  # a folder is always whole
            if self.base(file).hint.version > self.base(folder).hint.version:
                return file
        return folder

    def remove_older(self, files: Mapping[str, str]) -> None:
        """Remove what a crash left beside the files that count."""
        there = set(open_folder(self._collections).names()) if files else set()
        if not any(name.endswith(_PARTS) for name in there):
            return
        for name, path in files.items():
            for other in self.paths_of(name):
                if other != path and os.path.basename(other) in there:
                    logger.info("%s is older than %s: removed", other, path)
                    self.remove(other)

    def base(self, path: str) -> Base:
        """The documents of a collection's file or folder."""
        if path.endswith(_PARTS):
            return PartedBase(self.folder(path))
        return Base(self.memory, path, is_ours=not self.read_only)

    def folder(self, path: str) -> PartFolder:
        """The folder of a collection that has several files."""
        if path not in self._folders:
            self._folders[path] = PartFolder(self.memory, path, is_ours=not self.read_only)
        return self._folders[path]

    def paths_of(self, name: str) -> tuple[str, ...]:
        """Where a collection may be: in a file, or in a folder."""
        file = self.path_of(name)
        return file, file.removesuffix(_SUFFIX) + _PARTS

    def path_of(self, name: str) -> str:
        """Where a collection's file belongs."""
        return os.path.join(self._collections, _stem(name) + _SUFFIX)

    def remove(self, path: str) -> None:
        """Remove a collection's file or folder, if it is there and belongs to the directory."""
        if os.path.dirname(path) != self._collections:
            return
        if path.endswith(_PARTS):
            self.folder(path).remove()
            return
        folder = open_folder(self._collections)
        with suppress(SourceNotFound):
            folder.remove(os.path.basename(path))
        folder.sync()

    def expected_at(self, path: str, base: Base) -> Expected:
        """What must be in the place of a file that takes the place of a base; locally, anything."""
        return None

    def close(self) -> None:
        """Let others write the directory."""
        try:
            if self._journal is not None:
                self._journal.close()
        finally:
            if self._lock is not None:
                self._lock.release()


class RemoteDirectory(DataDirectory):
    """A data directory on an object store.

    A collection's file is replaced by one upload, on the condition that it is the one that was
    read, and a manifest is written on the condition that nobody else has written that version: of
    two writers the second is told so (:class:`~godb_arrow.WriteConflict`), and nothing is
    lost unseen. There is no lock, and the journal is a local temporary one: what was not saved is
    lost in a crash.
    """

    def __init__(self, url: str, memory: Memory | None = None, *, read_only: bool = False) -> None:
        self.memory = memory or Memory(_LEAST_MEMORY)
        self._folders = {}
        self.path = url.rstrip("/")
        self.read_only = read_only
        self._collections = f"{self.path}/collections"
        self._lock = None
        self._journal = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._follower = self._check_follower()

    @property
    def keeps_journal(self) -> bool:
        """It is a temporary one."""
        return False

    def recover(self) -> Iterator[Record]:
        """Nothing, for what was not saved is gone; but of a follower the journal that it got."""
        records: list[Record] = []
        if self._follower is not None:
            with tempfile.TemporaryDirectory(prefix="godb-arrow-journal-") as folder:
                fetch_journal(f"{self.path}/journal", folder)
                records = list(read_journal(folder))
        if not self.read_only:
            self._temporary = tempfile.TemporaryDirectory(prefix="godb-arrow-journal-")
            journal = Journal(self._temporary.name)
            list(journal.recover())
            if records:
                journal.skip_to(records[-1].number + 1)
            self._journal = journal
        yield from records

    def path_of(self, name: str) -> str:
        """Where a collection's file belongs."""
        return f"{self._collections}/{_stem(name)}{_SUFFIX}"

    def expected_at(self, path: str, base: Base) -> Expected:
        """The version of the base, or nothing where the file is new."""
        if base.path != path:
            return "absent"
        return base.open().source.version()

    def close(self) -> None:
        """Give up the temporary journal."""
        super().close()
        if self._temporary is not None:
            self._temporary.cleanup()


def open_directory(
    path: str | os.PathLike[str], memory: Memory, *, read_only: bool = False
) -> DataDirectory:
    """Open a data directory: a folder, or the URL of one on an object store."""
    name = os.fspath(path)
    kind = RemoteDirectory if is_url(name) else DataDirectory
    return kind(name, memory, read_only=read_only)


def _named(paths: dict[str, str]) -> dict[str, str]:
    """The collections in files, given by the files' names."""
    found = {}
    for file, path in paths.items():
        name = _name_of(file.removesuffix(_SUFFIX)) or _stored_name(path)
        if name is not None:
            found[name] = path
    return found


def _stored_name(path: str) -> str | None:
    from godb_arrow.reading import list_collections

    try:
        names = list(list_collections(path))
    except GodbError as error:
        logger.warning("%s is left alone: %s", path, error)
        return None
    return names[0] if len(names) == 1 else None


def place_for(
    directory: DataDirectory, name: str, snapshot: Snapshot, part_size: int, form: str | None
) -> str:
    """Where a snapshot is to be saved: in a file or, where it is large, in a folder of several.

    Which of the two may be given as `form`: "file" or "folder".
    """
    *_, last = directory.paths_of(name)
    first = directory.path_of(name)
    if form is not None:
        return first if form == "file" else last
    if isinstance(snapshot.base, PartedBase):
        return last
    size = _size_of(snapshot)
    if size is None:  # somebody else wrote the file: documents take several times its size
        size = 3 * snapshot.base.file_size
    return last if size > part_size else first


def save_snapshot(
    directory: DataDirectory,
    target: str,
    name: str,
    snapshot: Snapshot,
    next_id: int,
    indexes: tuple[str, ...],
    compression: CompressionName,
    part_size: int,
) -> Base:
    """Save a collection; documents that nobody changed are copied as bytes, or left where they are.

    Parameters
    ----------
    directory : DataDirectory
        Where it is.
    target : str
        The collection's file or folder there.
    name : str
        The collection.
    snapshot : Snapshot
        What to save.
    next_id : int
        The number that the next generated id gets.
    indexes : tuple of str
        The fields that have an index.
    compression : str
        How what is written is compressed.
    part_size : int
        Bytes of documents that a file of several has at most.

    Returns
    -------
    Base
        What was saved.

    Raises
    ------
    WriteConflict
        Somebody else wrote the file.
    StorageError
        The disk refused: what was saved before is as it was.
    """
    if target.endswith(_PARTS):
        return _save_parts(
            directory.folder(target), name, snapshot, next_id, indexes, compression, part_size
        )
    base = snapshot.base
    write_snapshots(
        target,
        [(name, snapshot, next_id, indexes)],
        keep_extras=base.is_ours,
        compression=compression,
        threads=base.memory.threads,
        expected=directory.expected_at(target, base),
    )
    stored = directory.base(target)
    if (stored.count, stored.hint.record) != (snapshot.count, snapshot.record):
        raise WriteConflict("somebody else wrote the file at the same time")
    return stored


def _save_parts(
    folder: PartFolder,
    name: str,
    snapshot: Snapshot,
    next_id: int,
    indexes: tuple[str, ...],
    compression: CompressionName,
    part_size: int,
) -> Base:
    """Write what changed to new files, and a manifest that names them beside those before."""
    base, schema = snapshot.base, snapshot.schema()
    parts: list[Part] = []
    statistics: list[Row | None] = []
    count = snapshot.live_count()
    if isinstance(base, PartedBase):
        if base.folder is not folder:  # it was renamed
            folder.take_over(base)
        for (start, _), part, row in zip(
            base.files(), base.manifest.parts, base.part_statistics(), strict=True
        ):
            part = replace(part, deleted=snapshot.dead_in(start, part.documents))
            if part.live:
                parts.append(part)
                statistics.append(row)
        size = sum(len(run.raw()) for run in snapshot.overlay_runs())
        files: list[tuple[int, Base]] | None = []
    else:
        size = _size_of(snapshot) or 3 * base.file_size
        files = None
    left = count - sum(part.live for part in parts)
    added = folder.write_parts(
        name, snapshot, files, changes=True, count=left, size=size, part_size=part_size,
        schema=schema, compression=compression,
    )  # fmt: skip
    parts += [part for part, _ in added]
    statistics += [row for _, row in added]
    manifest = Manifest(
        base.hint.version + 1, tuple(parts), schema, next_id, snapshot.record, indexes,
        compression=compression, name=name,
    )  # fmt: skip
    return folder.commit(manifest, statistics)


def join_parts(
    snapshot: Snapshot, name: str, first: int, last: int, part_size: int
) -> tuple[Base, Rows, int]:
    """Write some parts of a collection anew, without what is gone, and a manifest that says so.

    Parameters
    ----------
    snapshot : Snapshot
        The collection as it was saved.
    name : str
        The collection.
    first, last : int
        The parts, from an index to before another.
    part_size : int
        Bytes of documents that a part has at most.

    Returns
    -------
    base : Base
        What there is now.
    gone : array of int64
        The rows of the snapshot's base that were left out.
    written : int
        Bytes of the new files.
    """
    base = snapshot.base
    assert isinstance(base, PartedBase)
    old, manifest = base.manifest.parts, base.manifest
    files = base.files()
    statistics = base.part_statistics()
    chosen = old[first:last]
    added = base.folder.write_parts(
        name, snapshot, files[first:last], changes=False,
        count=sum(part.live for part in chosen), size=sum(part.live_size for part in chosen),
        part_size=part_size, schema=manifest.schema, compression=manifest.compression,
    )  # fmt: skip
    stored = base.folder.commit(
        replace(
            manifest,
            version=manifest.version + 1,
            rewrites=True,
            parts=(*old[:first], *(part for part, _ in added), *old[last:]),
        ),
        [*statistics[:first], *(row for _, row in added), *statistics[last:]],
    )
    gone = [part.deleted + start
            for (start, _), part in zip(files[first:last], chosen, strict=True)]  # fmt: skip
    return stored, np.concatenate(gone), sum(part.file_size for part, _ in added)


def write_snapshots(
    target: str | BinaryIO,
    snapshots: Sequence[tuple[str, Snapshot, int, tuple[str, ...]]],
    *,
    keep_extras: bool,
    threads: int,
    compression: CompressionName = "lz4",
    expected: Expected = None,
) -> int:
    """Write collections to a file, which takes the place of an earlier one at once.

    Documents that nobody changed are copied as bytes.

    Parameters
    ----------
    target : path or binary file
        The file.
    snapshots : sequence of tuples
        Name, snapshot, next generated id, and indexed fields of each collection.
    keep_extras : bool
        Whether the first one's file has other keys, which are kept.
    threads : int
        How many compress at the same time.
    compression : str
        How the file is compressed.
    expected : str, "absent" or None
        As for :func:`~godb_arrow.storage.replace.replace_file`.

    Returns
    -------
    int
        How many documents were written.
    """
    collections, indexes = [], {}
    metadata: dict[bytes, bytes] = {}
    others: dict[str, bytes] = {}
    for name, snapshot, next_id, fields in snapshots:
        base = snapshot.base
        if keep_extras and base.path is not None and not base.hint.plain:
            existing = read_existing(base.open().source, base.open().name)
            metadata, others = existing.metadata, existing.others
        hint = CollectionHint(
            snapshot.live_count(), next_id, snapshot.schema(), _size_of(snapshot),
            snapshot.record, fields, plain=not metadata and not set(others) - {"indexes"},
            version=base.hint.version + 1, compression=compression,
        )  # fmt: skip
        collections.append(CollectionData(name, hint.count, snapshot.chunks(), hint))
        shown = _go_indexes(snapshot, fields)
        if shown:
            indexes[name] = shown
    others.pop("indexes", None)
    if indexes:
        others["indexes"] = codec.pack(indexes)
    with replace_file(target, expected=expected) as stream:
        write_file(
            stream,
            collections,
            metadata=metadata,
            others=others,
            compression=compression,
            threads=threads,
        )
    return sum(data.count for data in collections)


def _size_of(snapshot: Snapshot) -> int | None:
    """About how many bytes the entries have."""
    base, dead = snapshot.base, len(snapshot.dead_rows())
    changed = sum(len(run.raw()) for run in snapshot.overlay_runs())
    size = base.hint.size
    if base.count == dead:
        return changed
    return None if size is None else size - size * dead // base.count + changed


def _go_indexes(snapshot: Snapshot, fields: Sequence[str]) -> dict[str, list[Any]]:
    """Indexes in go-db's shape: the ids of the documents that have a value.

    go-db indexes fields of the document itself, and stops working on lists and maps.
    """
    schema = snapshot.schema()
    names = [
        name for name in fields
        if name in schema.names and not isinstance(schema.field(name).type, pa.BaseExtensionType)
        and not pa.types.is_nested(schema.field(name).type)
    ]  # fmt: skip
    found: dict[str, list[Any]] = {name: [] for name in names}
    if not names:
        return found
    projection = project(schema, list(dict.fromkeys([ID_FIELD, *names])), None)
    plan = codec.plan_columns(projection.decoded)
    for entries in snapshot.entries():
        batch = projection.apply(codec.decode_batch(entries, plan))
        for name in names:
            has_value = pc.is_valid(batch.column(name))
            found[name].extend(batch.column(ID_FIELD).filter(has_value).to_pylist())
    return found
