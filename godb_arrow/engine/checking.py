"""Inspection and verification of everything that has collections."""

from __future__ import annotations

import os
from typing import cast

from godb_arrow.directory import verify_file as files
from godb_arrow.directory.reports import FileReport, Progress
from godb_arrow.engine.places import place_of
from godb_arrow.errors import InvalidOption
from godb_arrow.storage.several import places_of
from godb_arrow.storage.source import Location, Source
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["inspect_godb", "verify_godb"]


def inspect_godb(
    source: Location | Source, *, storage_options: StorageOptions = None
) -> FileReport:
    """Inspect the content of a file without decoding it.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        The GODB file.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    FileReport

    Raises
    ------
    GodbError
        The file cannot be read.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}], file, "users")
    1
    >>> [(c.name, c.count) for c in inspect_godb(file.getvalue()).collections]
    [('users', 1)]
    """
    with with_options(source, storage_options):
        place = place_of(source)
        if place.kind != "file":
            raise InvalidOption(
                f"{place.location} is the folder of "
                f"{'an engine' if place.kind == 'directory' else 'one collection'}",
                advice="read states and sizes with StorageEngine(…, read_only=True).infos()",
            )
        return files.inspect_godb(place.location)


def verify_godb(
    source: Location | Source,
    *,
    progress: Progress | None = None,
    storage_options: StorageOptions = None,
) -> FileReport:
    """Check every byte of a file, a data directory, or a folder of backups.

    The checksums, MessagePack, hints and ids of each file are checked. A folder ``NAME.parts`` must
    match its manifest and id files. Of a data directory the journal is also checked, and of
    backups their descriptions and the digest of each file.

    Parameters
    ----------
    source : path, URL, bytes or open binary file
        GODB file, folder of a collection, data directory, or folder of backups. ``data#users``
        stands for the files of one collection.
    progress : callable, optional
        Function that is called with a number of documents, as they are read.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    FileReport
        Report whose ``problems`` describe all damage.

    Raises
    ------
    StorageError
        The source cannot be read at all. Damage is reported and raises no error.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada"}], file, "users")
    1
    >>> data = bytearray(file.getvalue())
    >>> verify_godb(bytes(data)).ok
    True
    >>> data[30] ^= 1
    >>> verify_godb(bytes(data)).ok
    False
    """
    with with_options(source, storage_options):
        verified = _verified(source)
        if isinstance(verified, (str, os.PathLike)) and os.path.isfile(verified):
            return files.verify_single(verified, progress)
        # Folders of engines and backups need much more code.
        from godb_arrow.replication import verify as places

        return places.verify_godb(verified, progress=progress)


def _verified(source: Location | Source) -> Location | Source:
    """Return the file or folder to verify: for ``data#users``, the one of the collection."""
    if not isinstance(source, (str, os.PathLike)):
        return source
    if places_of(source) is not None:
        raise InvalidOption(
            f"{source} stands for several files", advice="verify one file after the other"
        )
    name = os.fspath(source)
    path = os.path.expanduser(name)
    if "#" not in name and (os.path.isdir(path) or not path.endswith(".godb")):
        return path if os.path.exists(path) else source
    place = place_of(source)
    if place.kind != "directory" or place.collection is None:
        return cast("Location", place.location)
    from godb_arrow.engine.fragments import saved_place

    return saved_place(os.fspath(place.location), place.collection)
