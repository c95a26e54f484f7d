"""Earlier versions of a collection, listed and opened for reading."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

from godb_arrow.display import Table, TableList, plural, quantity, table_of
from godb_arrow.errors import (
    InvalidOption,
    SourceNotFound,
    VersionNotFound,
    document_not_found,
    error_context,
)
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.readable import SnapshotCollection
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["CollectionVersion", "VersionInfo", "find_version", "moment_of", "versions_of"]

NO_TAGS: Mapping[str, int] = MappingProxyType({})
_MAX_SHOWN_VERSIONS = 5


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """Readable version of a collection.

    Attributes
    ----------
    version : int
        Number of the version.
    created : datetime
        Time of saving, in UTC.
    documents : int
        Number of documents.
    parts : int
        Number of part files.
    disk_bytes : int
        Bytes of the part files, which versions may share.
    tags : tuple of str
        Tags of the version, which stays readable as long as it has one.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), part_size="1KiB") as engine:
    ...     numbers = engine.create_collection("numbers")
    ...     for first in (0, 1000):
    ...         _ = numbers.insert_many([{"n": n} for n in range(first, first + 1000)])
    ...         engine.save()
    ...     [info.documents for info in numbers.versions()][-2:]
    [1000, 2000]
    """

    version: int
    created: dt.datetime
    documents: int
    parts: int
    disk_bytes: int
    tags: tuple[str, ...] = ()

    @classmethod
    def of(cls, manifest: Manifest, tags: Mapping[str, int] = NO_TAGS) -> VersionInfo:
        """Return the description of a manifest."""
        return cls(
            manifest.version,
            dt.datetime.fromtimestamp(manifest.created, dt.UTC),
            manifest.count,
            len(manifest.parts),
            sum(part.file_size for part in manifest.parts),
            tuple(tag for tag, version in tags.items() if version == manifest.version),
        )

    HEADS: ClassVar[list[str]] = ["version", "saved", "documents", "files", "on disk", "tags"]

    def cells(self) -> list[str]:
        """Return the row of a table with the columns of :attr:`HEADS`."""
        saved = f"{self.created:%Y-%m-%d %H:%M:%S} UTC"
        counts = [f"{self.documents:,}", str(self.parts)]
        tags = ", ".join(self.tags)
        return [str(self.version), saved, *counts, quantity(self.disk_bytes), tags]

    def _repr_html_(self) -> str:
        table = Table(self.HEADS)
        table.add(*self.cells())
        return table.html()


def versions_of(folder: PartFolder) -> list[VersionInfo]:
    """Return the readable versions of a collection, in order.

    Raises
    ------
    SourceNotFound
        Another process removed the folder.
    """
    versions: list[VersionInfo] = TableList()
    current = folder.current()
    for version in folder.versions() or [current.version]:
        try:
            versions.append(VersionInfo.of(folder.manifest(version), current.tags))
        except SourceNotFound:  # Another process removed the manifest meanwhile.
            continue
    return versions


def find_version(
    versions: Sequence[VersionInfo],
    version: int | None = None,
    at: dt.datetime | dt.date | str | None = None,
    tag: str | None = None,
) -> int:
    """Return the number of a version by its number, a moment or a tag.

    Raises
    ------
    InvalidOption
        Not exactly one of the three is given, or the moment is not understood.
    VersionNotFound
        There is no such version.
    """
    if sum(choice is not None for choice in (version, at, tag)) != 1:
        raise InvalidOption("a version needs one choice", advice="give version, at or tag")
    if version is not None:
        found = [info for info in versions if info.version == version]
        problem = f"there is no version {version!r}"
    elif tag is not None:
        found = [info for info in versions if tag in info.tags]
        problem = f"there is no version with the tag {tag!r}"
    else:
        moment = moment_of(at)
        found = [info for info in versions if info.created <= moment]
        problem = f"there is no version of {moment:%Y-%m-%d %H:%M:%S} UTC or before"
    if found:
        return found[-1].version
    raise VersionNotFound(problem, advice=_known_versions(versions))


def _known_versions(versions: Sequence[VersionInfo]) -> str:
    if not versions:
        return 'a single file keeps no versions; open the engine with versions="all", or tag it'
    shown = [
        f"{info.version} of {info.created:%Y-%m-%d %H:%M:%S}"
        + "".join(f" {tag!r}" for tag in info.tags)
        for info in versions[-_MAX_SHOWN_VERSIONS:]
    ]
    return f"the versions are {', '.join(shown)}"


def moment_of(at: object) -> dt.datetime:
    """Return a moment with a time zone; a date is its beginning, and the default zone is UTC.

    Raises
    ------
    InvalidOption
        The value is no moment.
    """
    moment = at
    if isinstance(moment, str):
        try:
            moment = dt.datetime.fromisoformat(moment)
        except ValueError:
            moment = None
    elif isinstance(moment, dt.date) and not isinstance(moment, dt.datetime):
        moment = dt.datetime.combine(moment, dt.time())
    if not isinstance(moment, dt.datetime):
        raise InvalidOption(
            f"at is {at!r}", advice="give a datetime, or text such as '2026-11-24 12:00'"
        )
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)


class CollectionVersion(SnapshotCollection):
    """State of a collection at one moment, for reading only.

    :meth:`Collection.snapshot` and :meth:`Collection.at_version` return it. It stays readable as
    long as the object exists.

    Attributes
    ----------
    token : str or None
        Token with which :meth:`Collection.changes` continues after a snapshot of now.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp(), part_size="1KiB") as engine:
    ...     numbers = engine.create_collection("numbers")
    ...     _ = numbers.insert_many([{"n": n} for n in range(1000)])
    ...     engine.save()
    ...     before = numbers.at_version(numbers.versions()[-1].version)
    ...     _ = numbers.delete_many({"n": [1, 2, 3]})
    ...     engine.save()
    ...     len(numbers), len(before)
    (997, 1000)
    """

    def __init__(
        self,
        name: str,
        documents: Snapshot,
        manifest: Manifest | None = None,
        token: str | None = None,
    ) -> None:
        self.token = token
        self._name = name
        self._manifest = manifest
        self._documents = documents

    @classmethod
    def of_base(cls, name: str, base: PartedBase) -> CollectionVersion:
        """Return a saved version."""
        documents = Snapshot(base, Overlay(), base.live, base.manifest.position)
        return cls(name, documents, base.manifest)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._name

    @property
    def version(self) -> int | None:
        """Number of the version; None if it was taken of unsaved documents."""
        return None if self._manifest is None else self._manifest.version

    @property
    def _indexed(self) -> tuple[str, ...]:
        return ()

    def get(self, identity: str | int) -> dict[Any, Any]:
        """Return a document by its id.

        Raises
        ------
        DocumentNotFound
            No document has the id.
        """
        found = self.find({"_id": str(identity)}, limit=1)
        if not found:
            with error_context("read", collection=self.name):
                raise document_not_found(str(identity))
        return found[0]

    def _snapshot(self) -> Snapshot:
        return self._documents

    def __len__(self) -> int:
        return self._documents.count

    def __repr__(self) -> str:
        version = "now" if self.version is None else self.version
        return f"<CollectionVersion {version} of {self._name!r}, {plural(len(self), 'document')}>"

    def _repr_html_(self) -> str:
        if self._manifest is not None:
            return VersionInfo.of(self._manifest)._repr_html_()
        return table_of(f"snapshot of {self._name}", {"documents": f"{len(self):,}"})
