"""Backups of a data directory, of which each later one copies only new files.

::

    target/
        backups/00000001.json      description of a backup: collections, files, digests
        files/0a/0a31…             files, named by the XXH3-128 of their bytes

A file that the target has already is not copied again. Most files of a collection that has several
never change. A backup exists once its description does, which is written last.

A backup may have been moved or changed since. So each name, digest and size of its description is
checked before any file is opened. A restore that fails leaves no files.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import logging
import os
import re
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, ClassVar

import xxhash

from godb_arrow.directory.names import is_stored_name
from godb_arrow.directory.places import check_apart, full_path
from godb_arrow.display import TableList, plural, quantity, table_of
from godb_arrow.errors import (
    ChecksumMismatch,
    CorruptFile,
    InvalidOption,
    SourceNotFound,
    TargetExists,
    VersionNotFound,
    WriteConflict,
    error_context,
    storage_errors,
)
from godb_arrow.keywords import explain_keywords
from godb_arrow.replication.target import split_stored
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.manifest import manifest_name, stored_manifest
from godb_arrow.snapshots.part_file import check_part_size
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage import local
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import number_in
from godb_arrow.storage.limited import read_limited
from godb_arrow.storage.lock import lock_file
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.replace import temporary_name
from godb_arrow.storage.source import local_path
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = [
    "BackupInfo",
    "BackupPlace",
    "StoredFile",
    "backup_collections",
    "check_keep",
    "description_name",
    "list_backups",
    "restore_backup",
]

logger = logging.getLogger(__name__)


_BLOCK_BYTES = 1 << 20
_SUFFIX = ".json"
_DIGEST = re.compile("[0-9a-f]{32}")
_MAX_DESCRIPTION_BYTES = 256 << 20
_FORMAT = 1
_UNUSABLE = (
    ValueError, KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """Description of a backup.

    Attributes
    ----------
    number : int
        Number of the backup, one more than the number of the backup before.
    created : datetime
        Time of the backup, in UTC.
    collections : dict of str to int
        Number of documents in each collection.
    files, size : int
        Number of files, and their bytes.
    copied_files, copied_size : int
        Number and bytes of the files that earlier backups did not have.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     backup = engine.backup(tempfile.mkdtemp())
    >>> backup.number, backup.files, backup.collections
    (1, 1, {'users': 1})
    """

    number: int
    created: dt.datetime
    collections: dict[str, int]
    files: int
    size: int
    copied_files: int
    copied_size: int

    def _repr_html_(self) -> str:
        known = {
            "created": f"{self.created:%Y-%m-%d %H:%M:%S} UTC",
            "size": quantity(self.size),
            "copied_size": quantity(self.copied_size),
        }
        for name, count in self.collections.items():
            known[f"collection {name}"] = plural(count, "document")
        shown = {"files": self.files, "copied_files": self.copied_files, **known}
        return table_of(f"backup {self.number}", shown)

    HEADS: ClassVar[list[str]] = ["backup", "created", "collections", "documents", "size"]

    def cells(self) -> list[str]:
        """Return the cells of a table row under :attr:`HEADS`."""
        created = f"{self.created:%Y-%m-%d %H:%M:%S} UTC"
        counts = [str(len(self.collections)), f"{sum(self.collections.values()):,}"]
        return [str(self.number), created, *counts, quantity(self.size)]


@dataclass(frozen=True, slots=True)
class StoredFile:
    """File of a backup: its path below the folder of collections, and its content."""

    name: str
    size: int
    modified: int  # in nanoseconds
    digest: str
    mode: int = UNLIMITED.mode


@dataclass(frozen=True, slots=True)
class _Description:
    """Content of a backup's description, after all checks."""

    info: BackupInfo
    files: tuple[StoredFile, ...]
    identity: str | None  # identity of the data directory


@dataclass(frozen=True, slots=True)
class _StoredSource:
    """File of a data directory that a backup copies."""

    name: str
    size: int
    modified: int
    access: Access
    open: Callable[[], AbstractContextManager[BinaryIO]]


class BackupPlace:
    """Folder or URL that holds backups."""

    def __init__(self, path: str) -> None:
        self._path = full_path(path)
        folder = open_folder(self._path)
        self.descriptions = folder.folder("backups")
        self._files = folder.folder("files")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude the deletion of backups, or a new description, while the context lasts.

        A place on an object store has no lock.
        """
        if is_url(self._path) or not os.path.isdir(self._path):
            yield
            return
        with lock_file(os.path.join(self._path, "backups")):
            yield

    def numbers(self) -> list[int]:
        """Return the numbers of the backups, in order."""
        numbers = (number_in(name, _SUFFIX) for name in self.descriptions.names())
        return sorted(number for number in numbers if number is not None)

    def folder_of(self, digest: str) -> Folder:
        """Return the folder of a file by its digest, which is also the file's name."""
        return self._files.folder(digest[:2])

    def read(self, number: int) -> _Description:
        """Read the description of a backup.

        Raises
        ------
        CorruptFile
            The description is damaged, or names impossible files.
        """
        name = description_name(number)
        with (
            error_context("read", self.descriptions.place(name)),
            self.descriptions.open(name) as stream,
        ):
            data = read_limited(stream, _MAX_DESCRIPTION_BYTES)
            try:
                if len(data) > _MAX_DESCRIPTION_BYTES:
                    raise ValueError(f"it has more than {_MAX_DESCRIPTION_BYTES} bytes")
                return _checked(json.loads(data), number)
            except _UNUSABLE as error:
                raise CorruptFile(
                    f"the description of the backup is damaged: {error}",
                    offset=0,
                    where="file",
                    advice="restore another backup",
                ) from error


def check_keep(keep: object) -> None:
    """Check the number of backups to keep.

    Raises
    ------
    InvalidOption
    """
    if keep is not None and (type(keep) is not int or keep < 1):
        raise InvalidOption(f"keep is {keep!r}", advice="give the number of backups, at least 1")


def description_name(number: int) -> str:
    """Return the name of the file that describes a backup."""
    return f"{number:08d}{_SUFFIX}"


def _checked(description: dict[str, Any], number: int) -> _Description:
    """Return the content of a description, or raise an error of `_UNUSABLE` if it is invalid."""
    checksum = description.pop("checksum")
    if description["format"] != _FORMAT or checksum != _checksum(description):
        raise ValueError("it does not match its checksum")
    files = tuple(_checked_file(file) for file in description["files"])
    names = {file.name for file in files}
    if len(names) < len(files):
        raise ValueError("it names a file twice")
    if description["number"] != number:
        raise ValueError(f"its content is the description of backup {description['number']!r}")
    info = BackupInfo(
        number=number,
        created=dt.datetime.fromtimestamp(description["created"], dt.UTC),
        collections={str(name): int(count) for name, count in description["collections"].items()},
        files=len(files),
        size=sum(file.size for file in files),
        copied_files=int(description["copied_files"]),
        copied_size=int(description["copied_size"]),
    )
    identity = description.get("identity")
    if identity is not None and not isinstance(identity, str):
        raise ValueError(f"it has the invalid identity {identity!r}")
    return _Description(info, files, identity)


def _checked_file(file: dict[str, Any]) -> StoredFile:
    stored = StoredFile(**{key: file[key] for key in file.keys() & StoredFile.__slots__})
    if not is_stored_name(stored.name):
        raise ValueError(f"it names the impossible file {stored.name!r}")
    if not _DIGEST.fullmatch(stored.digest):
        raise ValueError(f"the file {stored.name!r} has the invalid digest {stored.digest!r}")
    for number in (stored.size, stored.modified, stored.mode):
        if not isinstance(number, int) or number < 0:
            raise ValueError(f"the file {stored.name!r} has the invalid number {number!r}")
    return stored


def _checksum(description: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(description, sort_keys=True).encode())


def backup_collections(
    collections: Iterable[tuple[str, AbstractContextManager[Base]]],
    target: str,
    identity: str | None = None,
) -> BackupInfo:
    """Copy the saved files of collections into a backup.

    Parameters
    ----------
    collections : iterable of (str, context manager)
        Name of each collection, and a context in which its base stays readable.
    target : str
        Folder or URL of the backups.
    identity : str, optional
        Identity of the data directory, to record in the description.

    Returns
    -------
    BackupInfo
    """
    with error_context("back up", target):
        place = BackupPlace(target)
        numbers = place.numbers()
        known: dict[tuple[str, int, int], str] = {}
        there: set[str] = set()
        if numbers:
            last = place.read(numbers[-1])
            there = {file.digest for file in last.files}
            if last.identity == identity:  # Other directories have other files of these names.
                known = {(file.name, file.size, file.modified): file.digest for file in last.files}
        files: list[StoredFile] = []
        counts: dict[str, int] = {}
        copied = copied_size = 0
        access = UNLIMITED
        for name, held_base in collections:
            with held_base as base:
                counts[name] = base.live
                for source in _files_of(base):
                    digest = known.get((source.name, source.size, source.modified))
                    digest = digest or _digest(source)
                    folder = place.folder_of(digest)
                    if digest not in there or folder.lacks(digest):
                        folder.make()
                        with source.open() as stream:
                            file = folder.replace(digest, source.access & folder.access())
                            _copy_checked(stream, digest, source.size, file)
                        there.add(digest)
                        copied += 1
                        copied_size += source.size
                    else:
                        folder.restrict(digest, source.access)
                    access &= source.access
                    mode = source.access.mode
                    files.append(
                        StoredFile(source.name, source.size, source.modified, digest, mode)
                    )
        description = {
            "format": _FORMAT,
            "identity": identity,
            "created": dt.datetime.now(dt.UTC).timestamp(),
            "collections": counts,
            "files": [asdict(file) for file in files],
            "copied_files": copied,
            "copied_size": copied_size,
        }
        number = numbers[-1] + 1 if numbers else 1
        with place.locked():
            _check_complete(place, files)
            while not _describe(place, number, description, access):
                number += 1  # Another process wrote a backup meanwhile.
        logger.debug(
            "backed up to %s: %d files, %d copied, %d bytes",
            target,
            len(files),
            copied,
            copied_size,
        )
        return _checked(dict(description), number).info


def _check_complete(place: BackupPlace, files: Iterable[StoredFile]) -> None:
    """Check that another process deleted no file of an earlier backup meanwhile."""
    for digest in {file.digest for file in files}:
        if place.folder_of(digest).lacks(digest):
            raise WriteConflict(
                "another process deleted an old backup meanwhile", advice="back up again"
            )


def _describe(place: BackupPlace, number: int, description: dict[str, Any], access: Access) -> bool:
    """Write the description of a backup, unless another backup has its number."""
    description.pop("checksum", None)
    description["number"] = number
    description["checksum"] = _checksum(description)
    folder, name = place.descriptions, description_name(number)
    folder.make()
    try:
        with folder.replace(name, access & folder.access(), expected="absent") as stream:
            stream.write(json.dumps(description, indent=1).encode())
    except WriteConflict:
        return False
    return True


def _files_of(base: Base) -> Iterator[_StoredSource]:
    """Yield the files of a base."""
    if not isinstance(base, PartedBase):
        if base.path is not None:
            source = base.open().source
            name = os.path.basename(base.path)
            modified = int((base.modified or 0) * 1e9)
            yield _StoredSource(name, base.file_size, modified, base.access(), source.open)
        return
    folder = os.path.basename(base.folder.path)
    manifest = manifest_name(base.manifest.version)
    content = base.folder.content
    packed = stored_manifest(content, base.manifest)
    access = base.access() & content.access_of(manifest)
    yield _StoredSource(
        f"{folder}/{manifest}",
        len(packed),
        int(base.manifest.created * 1e9),
        access,
        lambda: io.BytesIO(packed),
    )
    for part in base.manifest.parts:
        for name in (part.file, part.ids_file):
            held = content.hold(name)
            check_part_size(part, name, held.size())
            modified = int((held.modified() or 0) * 1e9)
            yield _StoredSource(f"{folder}/{name}", held.size(), modified, held.access(), held.open)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK_BYTES):
        yield block


def _digest(source: _StoredSource) -> str:
    digest = xxhash.xxh3_128()
    with source.open() as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()


def _copy_checked(
    source: BinaryIO, digest: str, size: int, target: AbstractContextManager[BinaryIO]
) -> None:
    """Copy a file, and check its digest and size."""
    hasher = xxhash.xxh3_128()
    left = size
    with target as copy:
        while block := source.read(min(_BLOCK_BYTES, left + 1)):
            left -= len(block)
            hasher.update(block)
            copy.write(block)
        if left or hasher.hexdigest() != digest:
            raise ChecksumMismatch(
                "the file does not match its digest in the backup",
                offset=0,
                where="file",
                advice="restore another backup",
            )


def list_backups(
    target: str | os.PathLike[str], *, storage_options: StorageOptions = None
) -> list[BackupInfo]:
    """List the backups in a folder.

    Parameters
    ----------
    target : path or URL
        Folder or URL that was given to :meth:`StorageEngine.backup`.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    list of BackupInfo
        Backups in the order of their numbers.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> place = tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     _ = engine.backup(place)
    >>> [backup.collections for backup in list_backups(place)]
    [{'users': 1}]
    """
    with with_options(target, storage_options):
        place = BackupPlace(os.fspath(target))
        return TableList(place.read(number).info for number in place.numbers())


@explain_keywords
def restore_backup(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    number: int | None = None,
    *,
    storage_options: StorageOptions = None,
) -> BackupInfo:
    """Create a data directory from a backup, after checking all its files.

    Parameters
    ----------
    source : path or URL
        Folder or URL of the backups.
    data_dir : path
        Data directory to create. The folder must be missing or empty.
    number : int, optional
        Number of the backup; the last one by default.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    BackupInfo

    Raises
    ------
    TargetExists
        The folder is not empty.
    VersionNotFound
        The backup does not exist.
    ChecksumMismatch, CorruptFile
        The backup is damaged. No data directory was created.
    InvalidOption
        The folder is inside of another data directory or of the folder of backups.

    Examples
    --------
    >>> import os, tempfile, godb_arrow
    >>> place, folder = tempfile.mkdtemp(), tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     _ = engine.create_collection("users").insert({"name": "Ada"})
    ...     _ = engine.backup(place)
    >>> _ = restore_backup(place, folder)
    >>> with godb_arrow.StorageEngine(folder) as engine:
    ...     engine.find_all("users")
    [{'_id': '1', 'name': 'Ada'}]
    """
    name = os.fspath(source)
    if is_url(os.fspath(data_dir)):
        raise InvalidOption(
            f"a backup cannot be restored to {data_dir}",
            advice="restore to a local folder, and follow it to the object store",
        )
    target = os.path.realpath(local_path(os.fspath(data_dir)))
    with with_options(source, storage_options), error_context("restore", name):
        place = BackupPlace(name)
        numbers = place.numbers()
        if not numbers:
            raise SourceNotFound("the folder has no backups", advice="check the path")
        chosen = numbers[-1] if number is None else number
        if chosen not in numbers:
            shown = ", ".join(map(str, numbers))
            advice = f"there are {shown}"
            raise VersionNotFound(f"there is no backup {chosen}", advice=advice)
        if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
            raise TargetExists(f"the folder {target} is not empty", advice="give an empty folder")
        check_apart(target, name, purpose="a restore", kind="folder of backups")
        description = place.read(chosen)
        with _whole_or_not(target) as path:
            stored = open_folder(path).folder("collections")
            for file in description.files:
                folder, part = split_stored(stored, file.name)
                folder.make()
                _restore(place.folder_of(file.digest), file, folder, part)
        return description.info


def _restore(source: Folder, file: StoredFile, target: Folder, name: str) -> None:
    """Copy a file of a backup into the data directory."""
    with error_context("restore", source.place(file.digest)), source.open(file.digest) as stream:
        access = source.access_of(file.digest) & Access(file.mode) & target.access()
        _copy_checked(stream, file.digest, file.size, target.replace(name, access))


@contextmanager
def _whole_or_not(target: str) -> Iterator[str]:
    """Yield a folder beside the target, which replaces the target at the end."""
    above = os.path.dirname(target)
    missing = []
    while not os.path.isdir(above):
        missing.append(above)
        above = os.path.dirname(above)
    folder = ""
    try:
        with storage_errors("make", target):
            local.make_folders(os.path.dirname(target))
            folder = os.path.join(os.path.dirname(target), temporary_name())
            local.disk.make_folder(folder)
            if os.path.isdir(target):
                os.chmod(folder, stat.S_IMODE(os.stat(target).st_mode))
        yield folder
        with storage_errors("make", target):
            if os.path.isdir(target):
                local.disk.remove_folder(target)
            local.disk.replace(folder, target)
            local.disk.sync_folder(os.path.dirname(target))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        for path in missing:
            with suppress(OSError):
                os.rmdir(path)
        raise
