"""Places that have collections: files, data directories, folders of one collection, and several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

from godb_arrow.errors import CollectionNotFound, CollectionRequired, InvalidOption, SourceNotFound
from godb_arrow.file.collection import FileCollection
from godb_arrow.file.collection import open_godb as open_file
from godb_arrow.options import ReadKeywords
from godb_arrow.query.scannable import Scannable
from godb_arrow.storage.object_store import is_url, without_query
from godb_arrow.storage.several import named_collection, places_of
from godb_arrow.storage.source import Location, Source, open_source
from godb_arrow.storage.url_options import StorageOptions, with_options

if TYPE_CHECKING:
    from godb_arrow.engine.collection import Collection
    from godb_arrow.engine.engine import StorageEngine
    from godb_arrow.query.joined import JoinedCollection
    from godb_arrow.snapshots.versions import CollectionVersion

__all__ = [
    "Handle",
    "Place",
    "PlaceKind",
    "open_place",
    "opened",
    "opened_engine",
    "place_of",
]

Handle: TypeAlias = "FileCollection | Collection | CollectionVersion | JoinedCollection"
"""Collection of a file, a data directory, the folder of a collection, or several of these."""

PlaceKind = Literal["file", "directory", "parts"]

_FILE, _PARTS = ".godb", ".parts"
_MAX_SHOWN_NAMES = 20  # collections in an error
_MEMORY_BYTES = 256 << 20  # for reading the folder of a collection


class Place(NamedTuple):
    """Place that has collections.

    Attributes
    ----------
    kind : {"file", "directory", "parts"}
        Whether it is a file, a data directory, or the folder of one collection.
    location : path, URL, bytes, file or Source
        Location without the name of a collection.
    collection : str or None
        Name of the collection, if the caller gave one.
    """

    kind: PlaceKind
    location: Any
    collection: str | None


def place_of(source: Location | Source, collection: str | None = None) -> Place:
    """Return what a source is; ``data#users`` names a collection of a place.

    Raises
    ------
    InvalidOption
        The source and the caller name different collections.
    """
    if not isinstance(source, (str, os.PathLike)):
        return Place("file", source, collection)
    name, collection = named_collection(os.fspath(source), collection)
    if name != os.fspath(source):
        source = name
    kind = _kind_of(name)
    if kind == "parts":
        stem = name.rstrip("/").removesuffix(_FILE).removesuffix(_PARTS)
        return Place(kind, f"{stem}{_PARTS}", collection)
    return Place(kind, source, collection)


def _kind_of(name: str) -> PlaceKind:
    path = without_query(name).rstrip("/")
    if path.endswith(_PARTS):
        return "parts"
    if is_url(path):
        if path.endswith(_FILE):
            return "file"
        from godb_arrow.directory.places import is_data_directory

        is_directory = path == name.rstrip("/") and is_data_directory(path)
        return "directory" if is_directory else "file"
    path = os.path.expanduser(path.removeprefix("file://"))
    if not os.path.isdir(path):
        # An engine has made a folder of the collection, which became large.
        is_folder = path.endswith(_FILE) and not os.path.lexists(path)
        return "parts" if is_folder and os.path.isdir(_parts_of(path)) else "file"
    from godb_arrow.directory.places import is_data_directory

    if is_data_directory(path):
        return "directory"
    raise InvalidOption(
        f"{name} is a folder, and no data directory",
        advice=f"read its files together with {os.path.join(name, '*.godb')!r}",
    )


def _parts_of(path: str) -> str:
    return path.removesuffix(_FILE) + _PARTS


def file_of(source: Any, collection: str | None) -> Place | None:
    """Return the file that a source is, which needs no engine; None for any other place."""
    if places_of(source) is not None or isinstance(source, Scannable):
        return None
    place = place_of(source, collection)
    return place if place.kind == "file" else None


@contextmanager
def opened_engine(directory: str | os.PathLike[str]) -> Iterator[StorageEngine]:
    """Open a data directory for reading, and close it at the end of the block."""
    from godb_arrow.engine.engine import StorageEngine

    with StorageEngine(directory, read_only=True, create=False) as engine:
        yield engine


def open_place(
    source: Any,
    collection: str | None,
    options: ReadKeywords,
    stack: ExitStack | None = None,
) -> Handle:
    """Open a collection of any source.

    Parameters
    ----------
    source : path, URL, bytes, open binary file, or several
        The source.
    collection : str or None
        Name of the collection.
    options : ReadKeywords
        Options for reading files.
    stack : ExitStack, optional
        Closes the engines of data directories. Without it, they are closed with their handles.
    """
    places = places_of(source)
    if places is not None:
        from godb_arrow.query.joined import JoinedCollection

        return JoinedCollection([open_place(one, collection, options, stack) for one in places])
    if isinstance(source, Scannable):
        return source  # type: ignore[return-value]
    place = place_of(source, collection)
    if place.kind == "directory":
        return _in_directory(place, stack, options.get("use_hints", True))
    if place.kind == "parts":
        return _in_folder(place, options.get("use_hints", True))
    handle = open_file(open_source(place.location), place.collection, **options)
    if stack is not None:
        stack.callback(handle.close)
    return handle


def _in_directory(place: Place, stack: ExitStack | None, use_hints: bool) -> Collection:
    from godb_arrow.engine.engine import StorageEngine

    engine = StorageEngine(place.location, read_only=True, create=False, use_hints=use_hints)
    if stack is not None:
        stack.enter_context(engine)
    try:
        return engine[_name_in(engine, place)]
    except BaseException:
        engine.close()
        raise


def _name_in(engine: StorageEngine, place: Place) -> str:
    """Return the name of the collection: the given one, or the only one."""
    if place.collection is not None:
        return place.collection
    names = engine.collections()
    if len(names) != 1:
        shown = ", ".join(map(repr, names[:_MAX_SHOWN_NAMES]))
        raise CollectionRequired(
            f"{place.location} has {len(names)} collections",
            advice=f"give one of the names {shown}" if names else "create one first",
        )
    return names[0]


def _in_folder(place: Place, use_hints: bool) -> CollectionVersion:
    from godb_arrow.directory.names import name_of
    from godb_arrow.memory.limit import Memory
    from godb_arrow.snapshots.part_folder import PartFolder
    from godb_arrow.snapshots.parted_base import PartedBase
    from godb_arrow.snapshots.versions import CollectionVersion

    path = os.path.expanduser(str(place.location).removeprefix("file://"))
    if not is_url(path) and not os.path.isdir(path):
        raise SourceNotFound(f"there is no folder {place.location}", advice="check the path")
    folder = PartFolder(Memory(_MEMORY_BYTES, use_hints=use_hints), path, is_ours=False)
    recorded = name_of(os.path.basename(path).removesuffix(_PARTS))
    if recorded is not None and place.collection not in (None, recorded):
        raise CollectionNotFound(
            f"there is no collection {place.collection!r}", advice=f"the folder has {recorded!r}"
        )
    name = place.collection or recorded or os.path.basename(path).removesuffix(_PARTS)
    return CollectionVersion.of_base(name, PartedBase(folder, folder.current()))


@contextmanager
def opened(
    source: Any, collection: str | None, options: ReadKeywords, storage_options: StorageOptions
) -> Iterator[Handle]:
    """Open a collection of any source, and close all that was opened at the end of the block."""
    with with_options(source, storage_options), ExitStack() as stack:
        yield open_place(source, collection, options, stack)
