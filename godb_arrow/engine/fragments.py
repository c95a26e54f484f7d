"""Fragments of a collection, for query engines that read it in many processes.

A fragment names some files of a collection and can be pickled.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace

import pyarrow as pa

from godb_arrow.directory.opening import open_directory
from godb_arrow.directory.places import full_path, is_data_directory
from godb_arrow.errors import (
    InvalidOption,
    SourceNotFound,
    VersionNotFound,
)
from godb_arrow.file.collection import open_godb
from godb_arrow.memory.limit import Memory
from godb_arrow.query.scannable import Scannable
from godb_arrow.query.statistics import Row
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.versions import CollectionVersion
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.url_options import StorageOptions, made_with_options, with_options

__all__ = [
    "MEMORY",
    "Fragment",
    "fragments_of",
    "fragments_since",
    "latest_version",
    "saved_place",
]


MEMORY = 256 << 20  # bytes, for a process that reads or writes a fragment
_MAX_ATTEMPTS = 5  # for a collection that another process moves between a file and a folder


@dataclass(frozen=True, slots=True)
class Fragment:
    """A share of a collection, which any process with access to its files can read.

    Attributes
    ----------
    path : str
        File or folder of the collection.
    collection : str
        Name of the collection.
    manifest : bytes
        Manifest of the part, with its deleted documents; empty for a single file.
    documents : int
        Number of documents.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, with which any process opens the fragment.
        They are not in the repr.
    """

    path: str
    collection: str
    manifest: bytes
    documents: int
    storage_options: StorageOptions = field(default=None, repr=False)

    def open(self) -> Scannable:
        """Open the fragment for reading."""
        return made_with_options(self.path, self.storage_options, self._opened)

    def _opened(self) -> Scannable:
        if not self.manifest:
            return open_godb(self.path, self.collection)
        folder = PartFolder(Memory(MEMORY), self.path, is_ours=False)
        return CollectionVersion.of_base(
            self.collection, PartedBase(folder, Manifest.unpack(self.manifest))
        )


def fragments_of(
    source: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
) -> tuple[list[Fragment], pa.Schema]:
    """Return the fragments of a saved collection, and its schema.

    Parameters
    ----------
    source : path or URL, or several
        A GODB file, a data directory, the folder of a collection, or several files that have the
        same collection. A data directory may be on an object store.
    collection : str, optional
        Name of the collection. Required if the source has several collections.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, which the fragments keep.

    Returns
    -------
    fragments : list of Fragment
    schema : pyarrow.Schema
        Schema of all fragments together.

    Raises
    ------
    CollectionNotFound, CollectionRequired, StorageError, FormatError

    Examples
    --------
    >>> from godb_arrow.samples import FLIGHTS
    >>> fragments, schema = fragments_of(FLIGHTS)
    >>> [fragment.documents for fragment in fragments], "dest" in schema.names
    ([27004], True)
    """
    if not isinstance(source, (str, os.PathLike)):
        source = list(source)
    with with_options(source, storage_options):
        fragments, schema = _fragments_of(source, collection)
    return [replace(one, storage_options=storage_options) for one in fragments], schema


def _fragments_of(
    source: str | os.PathLike[str] | list[str | os.PathLike[str]], collection: str | None
) -> tuple[list[Fragment], pa.Schema]:
    if not isinstance(source, (str, os.PathLike)):
        found = [_fragments_of(path, collection) for path in source]
        if not found:
            raise InvalidOption("there is no file", advice="give at least one")
        schema = pa.unify_schemas([own for _, own in found], promote_options="permissive")
        return [fragment for fragments, _ in found for fragment in fragments], schema
    path = os.path.expanduser(os.fspath(source)).rstrip("/")
    if is_data_directory(path):
        for _ in range(_MAX_ATTEMPTS):
            place = saved_place(path, collection)
            with suppress(SourceNotFound):  # another process moved it meanwhile
                return _fragments_of(place, collection)
        return _fragments_of(saved_place(path, collection), collection)
    if path.endswith(".parts") or (not is_url(path) and os.path.isdir(path)):
        folder = PartFolder(Memory(MEMORY), path, is_ours=False)
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


def _fragment(
    folder: PartFolder, name: str, manifest: Manifest, part: Part, statistics: Row | None
) -> Fragment:
    alone = folder.with_statistics(replace(manifest, parts=(part,)), [statistics])
    return Fragment(folder.path, name, alone.pack(), part.live)


def _folder_of(directory: str, collection: str | None) -> tuple[PartFolder, str]:
    place = saved_place(full_path(directory), collection)
    name = collection or os.path.basename(place).removesuffix(".parts")
    if not place.endswith(".parts"):
        raise InvalidOption(
            f"the collection {name!r} is a single file and has no versions",
            advice=f"make it a folder of parts once: engine[{name!r}].to_folder()",
        )
    return PartFolder(Memory(MEMORY), place, is_ours=False), name


def latest_version(
    directory: str | os.PathLike[str],
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
) -> int:
    """Return the last saved version of a collection.

    Parameters
    ----------
    directory : path
        The data directory.
    collection : str, optional
        Name of the collection. Required if the source has several collections.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL.

    Returns
    -------
    int

    Raises
    ------
    InvalidOption
        The collection is a single file.
    SourceNotFound
    """
    with with_options(directory, storage_options):
        return _folder_of(os.fspath(directory), collection)[0].versions()[-1]


def fragments_since(
    directory: str | os.PathLike[str],
    collection: str | None,
    since: int,
    until: int,
    *,
    storage_options: StorageOptions = None,
) -> list[Fragment]:
    """Return the documents that were added or replaced between two versions.

    Parameters
    ----------
    directory : path
        The data directory.
    collection : str, optional
        Name of the collection. Required if the source has several collections.
    since : int
        First version. With 0, all documents of the second version are new.
    until : int
        Second version.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL, which the fragments keep.

    Returns
    -------
    list of Fragment

    Raises
    ------
    VersionNotFound
        Versions in between were removed; see ``keep_versions`` and ``part_grace``.

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
    >>> [new.documents for new in fragments_since(folder, "events", last - 1, last)]
    [1]
    """
    with with_options(directory, storage_options):
        found = _fragments_since(os.fspath(directory), collection, since, until)
    return [replace(one, storage_options=storage_options) for one in found]


def _fragments_since(
    directory: str, collection: str | None, since: int, until: int
) -> list[Fragment]:
    folder, name = _folder_of(directory, collection)
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
        return folder.manifest(version)
    except SourceNotFound as error:
        raise VersionNotFound(
            f"version {version} was removed, so that its new documents are unknown",
            advice="read all documents again; set a larger keep_versions or part_grace for writing",
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


def saved_place(directory: str, collection: str | None) -> str:
    """Return the file or folder of a saved collection of a data directory."""
    opened = open_directory(directory, Memory(MEMORY), read_only=True)
    files = opened.files()
    if collection is None and len(files) == 1:
        (collection,) = files
    if collection is None or collection not in files:
        known = ", ".join(map(repr, sorted(files)[:20]))
        raise SourceNotFound(
            f"there is no saved collection {collection!r} in {directory}"
            if collection
            else f"{directory} has {len(files)} collections",
            advice=f"name one of {known}" if files else "save a collection first",
        )
    opened.check(files[collection])
    return files[collection]
