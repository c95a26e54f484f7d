"""Earlier versions of a collection, listed and opened for reading."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, ClassVar

from godb_arrow.display import Table, TableList, plural, quantity
from godb_arrow.errors import SourceNotFound, document_not_found, error_context
from godb_arrow.snapshots.manifest import Manifest
from godb_arrow.snapshots.overlay import Overlay
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.readable import SnapshotCollection
from godb_arrow.snapshots.snapshot import Snapshot

__all__ = ["CollectionVersion", "VersionInfo", "versions_of"]


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

    @classmethod
    def of(cls, manifest: Manifest) -> VersionInfo:
        """Return the description of a manifest."""
        return cls(
            manifest.version,
            dt.datetime.fromtimestamp(manifest.created, dt.UTC),
            manifest.count,
            len(manifest.parts),
            sum(part.file_size for part in manifest.parts),
        )

    HEADS: ClassVar[list[str]] = ["version", "saved", "documents", "files", "on disk"]

    def cells(self) -> list[str]:
        """Return the row of a table with the columns of :attr:`HEADS`."""
        saved = f"{self.created:%Y-%m-%d %H:%M:%S} UTC"
        counts = [f"{self.documents:,}", str(self.parts)]
        return [str(self.version), saved, *counts, quantity(self.disk_bytes)]

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
    for version in folder.versions() or [folder.current().version]:
        try:
            versions.append(VersionInfo.of(folder.manifest(version)))
        except SourceNotFound:  # Another process removed the manifest meanwhile.
            continue
    return versions


class CollectionVersion(SnapshotCollection):
    """Saved version of a collection, for reading only.

    :meth:`Collection.at_version` returns it. It stays readable as long as the object exists.

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

    def __init__(self, name: str, base: PartedBase) -> None:
        self._name = name
        self._manifest = base.manifest
        self._documents = Snapshot(base, Overlay(), base.live, base.manifest.position)

    @property
    def name(self) -> str:
        """Name of the collection."""
        return self._name

    @property
    def version(self) -> int:
        """Number of the version."""
        return self._manifest.version

    @property
    def indexes(self) -> tuple[str, ...]:
        """Indexed fields; a version has none."""
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
        return (
            f"<CollectionVersion {self.version} of {self._name!r}, {plural(len(self), 'document')}>"
        )

    def _repr_html_(self) -> str:
        return VersionInfo.of(self._manifest)._repr_html_()
