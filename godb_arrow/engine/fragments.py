"""The files of a collection one by one, for engines that read and write them in many processes.

A fragment is what a process needs to read its share, and can be pickled. Documents are written as
files that nobody knows, wherever that is done; then one process makes all of them part of the
collection at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

import pyarrow as pa

from godb_arrow.directory.data_directory import open_directory
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

__all__ = ["MEMORY", "Fragment", "fragments_of", "fragments_since", "latest_version"]


MEMORY = 256 << 20  # of a process that reads or writes a fragment
_LOOKS = 5  # for a collection that another process moves between a file and a folder


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
        folder = PartFolder(Memory(MEMORY), self.path, is_ours=False)
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
    if is_data_directory(path):
        for _ in range(_LOOKS):
            place = _place_of(path, collection)
            with suppress(SourceNotFound):  # another process put it elsewhere meanwhile
                return fragments_of(place, collection)
        return fragments_of(_place_of(path, collection), collection)
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
    place = _place_of(full_path(directory), collection)
    name = collection or os.path.basename(place).removesuffix(".parts")
    if not place.endswith(".parts"):
        raise InvalidOption(
            f"the collection {name!r} has one file, of which nobody can say what is new",
            advice=f"have it in several from now on: engine[{name!r}].to_folder()",
        )
    return PartFolder(Memory(MEMORY), place, is_ours=False), name


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
        return folder.manifest(version)
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
    opened = open_directory(directory, Memory(MEMORY), read_only=True)
    files = opened.files()
    if collection is None and len(files) == 1:
        (collection,) = files
    if collection is None or collection not in files:
        known = ", ".join(map(repr, sorted(files)[:20]))
        raise SourceNotFound(
            f"there is no saved collection {collection!r} in {directory}"
            if collection else f"{directory} has {len(files)} collections",
            advice=f"name one of {known}" if files else "save one first",
        )  # fmt: skip
    opened.check(files[collection])
    return files[collection]
