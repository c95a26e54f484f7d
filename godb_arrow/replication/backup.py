"""Copies of a data directory, full at first and then of what is new only.

::

    target/
        backups/00000001.json      what each backup has: collections, their files, digests
        files/0a/0a31…             the files, named by the XXH3-128 of their bytes

A file that is there already is not copied again, and of a collection that has several files most
stay as they are. A backup is there when its description is, which is written last.
"""

from __future__ import annotations

import datetime as dt
import io
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO

import xxhash

from godb_arrow.errors import (
    ChecksumMismatch,
    CorruptFile,
    SourceNotFound,
    TargetExists,
    VersionNotFound,
    WriteConflict,
    error_context,
    storage_errors,
)
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.manifest import manifest_name
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage import local, replace
from godb_arrow.storage.object_store import RemoteStore, is_url
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import Source

__all__ = ["BackupInfo", "backup_collections", "list_backups", "restore_backup"]


_BLOCK = 1 << 20
_NAME = re.compile(r"([0-9]{8,})\.json")
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class BackupInfo:
    """What a backup has.

    Attributes
    ----------
    number : int
        Its number; each has one more than that before.
    created : datetime
        When it was made, in UTC.
    collections : dict of str to int
        The collections, and how many documents each has.
    files, size : int
        Its files, and their bytes.
    copied_files, copied_size : int
        Those of them that were not there already.

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


@dataclass(frozen=True, slots=True)
class _File:
    """A file of a backup: where it belongs in the data directory, and what it has."""

    name: str
    size: int
    modified: int  # in nanoseconds
    digest: str


@dataclass(frozen=True, slots=True)
class _Found:
    """A file of a data directory, to be copied."""

    name: str
    size: int
    modified: int
    open: Callable[[], AbstractContextManager[BinaryIO]]


def _join(target: str, *parts: str) -> str:
    return (
        "/".join([target.rstrip("/"), *parts]) if is_url(target) else os.path.join(target, *parts)
    )


def _place(target: str, digest: str) -> str:
    return _join(target, "files", digest[:2], digest)


def _names_in(path: str) -> list[str]:
    if is_url(path):
        return list(RemoteStore(path).names())
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _numbers(target: str) -> list[int]:
    matches = (_NAME.fullmatch(name) for name in _names_in(_join(target, "backups")))
    return sorted(int(match[1]) for match in matches if match)


def _read(target: str, number: int) -> dict[str, Any]:
    path = _join(target, "backups", f"{number:08d}.json")
    with error_context("read", path), Source(path).open() as stream:
        try:
            found: dict[str, Any] = json.loads(stream.read())
            checksum = found.pop("checksum")
            if found["format"] != _FORMAT or checksum != _checksum(found):
                raise ValueError("the checksum is another one")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CorruptFile(
                f"the description of the backup is damaged: {error}",
                offset=0,
                where="file",
                advice="restore another backup",
            ) from error
        return found


def _checksum(description: dict[str, Any]) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(description, sort_keys=True).encode())


def _info(description: dict[str, Any]) -> BackupInfo:
    files = description["files"]
    return BackupInfo(
        number=description["number"],
        created=dt.datetime.fromtimestamp(description["created"], dt.UTC),
        collections=dict(description["collections"]),
        files=len(files),
        size=sum(file["size"] for file in files),
        copied_files=description["copied_files"],
        copied_size=description["copied_size"],
    )


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
        Folder or URL that holds the backups.
    identity : str, optional
        Identity of the data directory, for the description.

    Returns
    -------
    BackupInfo
    """
    with error_context("back up", target):
        numbers = _numbers(target)
        known: dict[tuple[str, int, int], str] = {}
        there: set[str] = set()
        if numbers:
            last = _read(target, numbers[-1])
            there = {file["digest"] for file in last["files"]}
            if last.get("identity") == identity:  # else its files of these names are others
                known = {
                    (file["name"], file["size"], file["modified"]): file["digest"]
                    for file in last["files"]
                }
        files: list[_File] = []
        counts: dict[str, int] = {}
        copied = copied_size = 0
        for name, held_base in collections:
            with held_base as base:
                counts[name] = base.live
                for found in _files_of(base):
                    digest = known.get((found.name, found.size, found.modified))
                    if digest is None:
                        digest = _digest(found)
                        if digest not in there:
                            _copy(found, digest, _place(target, digest))
                            there.add(digest)
                            copied += 1
                            copied_size += found.size
                    files.append(_File(found.name, found.size, found.modified, digest))
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
        while not _describe(target, number, description):
            number += 1  # another process made a backup meanwhile
        return _info(description)


def _describe(target: str, number: int, description: dict[str, Any]) -> bool:
    """Write the description of a backup, unless another backup has its number."""
    description["number"] = number
    whole = {**description, "checksum": _checksum(description)}
    path = _join(target, "backups", f"{number:08d}.json")
    _make_folder_of(path)
    try:
        with replace_file(path, expected="absent") as stream:
            stream.write(json.dumps(whole, indent=1).encode())
    except WriteConflict:
        return False
    return True


def _files_of(base: Base) -> Iterator[_Found]:
    """Yield the files of a base."""
    if not isinstance(base, PartedBase):
        if base.path is not None:
            source = base.open().source
            name = os.path.basename(base.path)
            modified = int((base.modified or 0) * 1e9)
            yield _Found(name, base.file_size, modified, source.open)
        return
    folder = os.path.basename(base.folder.path)
    packed = base.manifest.pack()
    manifest = manifest_name(base.manifest.version)
    yield _Found(
        f"{folder}/{manifest}", len(packed), int(base.manifest.created * 1e9),
        lambda: io.BytesIO(packed),
    )  # fmt: skip
    for part in base.manifest.parts:
        for name in (part.file, part.ids_file):
            source = Source(_join(base.folder.path, name))
            modified = int((source.modified() or 0) * 1e9)
            yield _Found(f"{folder}/{name}", source.size() or 0, modified, source.open)


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
    while block := stream.read(_BLOCK):
        yield block


def _digest(found: _Found) -> str:
    digest = xxhash.xxh3_128()
    with found.open() as stream:
        for block in _blocks(stream):
            digest.update(block)
    return digest.hexdigest()


def _copy(found: _Found, digest: str, path: str) -> None:
    _make_folder_of(path)
    with found.open() as stream:
        _copy_checked(stream, digest, path)


def _copy_checked(source: BinaryIO, digest: str, path: str) -> None:
    """Copy a file, which must have a digest."""
    found = xxhash.xxh3_128()
    with replace_file(path) as target:
        for block in _blocks(source):
            found.update(block)
            target.write(block)
        if found.hexdigest() != digest:
            raise ChecksumMismatch(
                "the bytes differ from those that were backed up",
                offset=0,
                where="file",
                advice="restore another backup",
            )


def _make_folder_of(path: str) -> None:
    if not is_url(path):
        with storage_errors("make", path):
            local.make_folders(os.path.dirname(os.path.abspath(path)))


def list_backups(target: str | os.PathLike[str]) -> list[BackupInfo]:
    """The backups in a place.

    Parameters
    ----------
    target : path or URL
        Where :meth:`StorageEngine.backup` put them.

    Returns
    -------
    list of BackupInfo
        In order.

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
    name = os.fspath(target)
    return [_info(_read(name, number)) for number in _numbers(name)]


def restore_backup(
    source: str | os.PathLike[str],
    data_dir: str | os.PathLike[str],
    number: int | None = None,
) -> BackupInfo:
    """Make a data directory of a backup; every byte is checked.

    Parameters
    ----------
    source : path or URL
        Where the backups are.
    data_dir : path
        The data directory, which must not be there yet, or be empty.
    number : int, optional
        Which backup; the last one, if left out.

    Returns
    -------
    BackupInfo

    Raises
    ------
    TargetExists
        There is something in the folder.
    VersionNotFound
        There is no such backup.
    ChecksumMismatch, CorruptFile
        The backup is damaged; no data directory was made.

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
    target = os.path.abspath(os.path.expanduser(os.fspath(data_dir)))
    with error_context("restore", name):
        numbers = _numbers(name)
        if not numbers:
            raise SourceNotFound("there is no backup", advice="check the path")
        chosen = numbers[-1] if number is None else number
        if chosen not in numbers:
            shown = ", ".join(map(str, numbers))
            raise VersionNotFound(f"there is no backup {chosen}", advice=f"there are {shown}")
        if os.path.isdir(target) and os.listdir(target):
            raise TargetExists(f"there is something in {target}", advice="give an empty folder")
        description = _read(name, chosen)
        with _whole_or_not(target) as folder:
            for file in description["files"]:
                parts = file["name"].split("/")
                if any(part in ("", ".", "..") or os.sep in part for part in parts):
                    raise CorruptFile(
                        f"the backup has a file {file['name']!r}", offset=0, where="file"
                    )
                path = os.path.join(folder, "collections", *parts)
                _make_folder_of(path)
                place = _place(name, file["digest"])
                with error_context("restore", place), Source(place).open() as stream:
                    _copy_checked(stream, file["digest"], path)
        return _info(description)


@contextmanager
def _whole_or_not(target: str) -> Iterator[str]:
    """A folder beside the target, which takes its place at the end."""
    above = os.path.dirname(target)
    with storage_errors("make", target):
        local.make_folders(above)
        folder = tempfile.mkdtemp(prefix=replace.TEMPORARY_PREFIX, dir=above)
    try:
        yield folder
        with storage_errors("make", target):
            if os.path.isdir(target):
                local.disk.remove_folder(target)
            local.disk.replace(folder, target)
            local.disk.sync_folder(above)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
