"""Writing of a collection's snapshot to a file, or to new parts."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, BinaryIO

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.directory.data_directory import PARTS, DataDirectory
from godb_arrow.errors import (
    WriteConflict,
)
from godb_arrow.file.existing import read_existing
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.writer import CollectionData, write_file
from godb_arrow.options import CompressionName, VersionedCollections
from godb_arrow.query.projection import project
from godb_arrow.query.statistics import Row
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.indexes import MergedRuns
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.snapshot import Snapshot
from godb_arrow.snapshots.take_over import keeps_versions, take_over
from godb_arrow.storage.object_store import is_url

__all__ = ["place_for", "save_snapshot", "size_of", "write_snapshots"]


logger = logging.getLogger(__name__)
_MAX_RATIO = 256  # decompressed bytes per byte of a file, which LZ4 never exceeds


def place_for(
    directory: DataDirectory,
    name: str,
    snapshot: Snapshot,
    part_size: int,
    form: str | None,
    *,
    versions: VersionedCollections = "large",
) -> str:
    """Return the path for saving a snapshot: a file, or a folder if the collection is large.

    With `form`, the caller chooses "file" or "folder". Otherwise a collection that keeps versions
    is a folder, too.
    """
    *_, last = directory.paths_of(name)
    first = directory.path_of(name)
    if form is not None:
        return first if form == "file" else last
    if isinstance(snapshot.base, PartedBase) or versions == "all":
        return last
    size = size_of(snapshot)
    if size is None:  # Another program wrote the file. Documents take several times its size.
        size = 3 * snapshot.base.file_size
    return last if size > part_size else first


def save_snapshot(
    directory: DataDirectory,
    target: str,
    name: str,
    snapshot: Snapshot,
    next_id: int,
    indexes: tuple[str, ...],
    rules: bytes,
    compression: CompressionName,
    part_size: int,
    announce: Callable[[Manifest | None], None] | None = None,
) -> Base:
    """Save a collection, copying unmodified documents byte for byte.

    Parameters
    ----------
    directory : DataDirectory
        Directory of the collection.
    target : str
        Path of the collection's file or folder in the directory.
    name : str
        Name of the collection.
    snapshot : Snapshot
        Snapshot to save.
    next_id : int
        Number of the next generated id.
    indexes : tuple of str
        Fields that have an index.
    rules : bytes
        Packed rules of the collection.
    compression : str
        Compression of new files.
    part_size : int
        Maximum bytes of documents in a part.
    announce : callable, optional
        Function that gets the manifest of new parts just before the save takes effect, or None for
        a file.

    Returns
    -------
    Base
        New base of the collection.

    Raises
    ------
    WriteConflict
        Another writer replaced the file.
    StorageError
        The disk refuses a write. The saved state is unchanged.
    """
    base = snapshot.base
    directory.restrict(base.access())
    if target.endswith(PARTS):
        parted = _save_parts(
            directory.folder(target),
            name,
            snapshot,
            next_id,
            indexes,
            rules,
            compression,
            part_size,
            directory.stamp,
            announce,
        )
        directory.restrict(parted.access())
        return parted
    if announce is not None:
        announce(None)
    write_snapshots(
        directory.write(target, base),
        [(name, snapshot, next_id, indexes, rules)],
        keep_extras=base.is_ours,
        compression=compression,
        threads=base.memory.threads,
        directory=directory.stamp,
        former=_former(base, target),
    )
    stored = directory.base(target)
    if (stored.count, stored.hint.position) != (snapshot.count, snapshot.position):
        raise WriteConflict("another writer replaced the file at the same time")
    return stored


def _save_parts(
    folder: PartFolder,
    name: str,
    snapshot: Snapshot,
    next_id: int,
    indexes: tuple[str, ...],
    rules: bytes,
    compression: CompressionName,
    part_size: int,
    directory: bytes,
    announce: Callable[[Manifest], None] | None,
) -> Base:
    """Write changed documents to new parts, and a manifest that names all parts."""
    base = snapshot.base
    is_parted = isinstance(base, PartedBase)  # Compaction forgets what was deleted.
    schema = snapshot.schema() if is_parted else snapshot.settle_schema()
    moves = isinstance(base, PartedBase) and base.folder is not folder
    parts: list[Part] = []
    tags: Mapping[str, int] = {}
    statistics: list[Row | None] = []
    count = snapshot.live_count()
    if not moves:
        folder.make(base.access())
    if isinstance(base, PartedBase):
        if moves:  # The collection was renamed.
            take_over(folder, base, name, base.access())
        if keeps_versions(folder) or not moves:
            tags = base.manifest.tags
        for (start, _), part, row in zip(
            base.files(), base.manifest.parts, base.part_statistics(), strict=True
        ):
            part = replace(part, deleted=snapshot.superseded_in(start, part.documents))
            if part.live:
                parts.append(part)
                statistics.append(row)
        size = sum(len(run.raw()) for run in snapshot.overlay_runs())
        files: list[tuple[int, Base]] | None = []
    else:
        size = size_of(snapshot) or 3 * base.file_size
        files = None
    left = count - sum(part.live for part in parts)
    added = folder.write_parts(
        name,
        snapshot,
        files,
        changes=True,
        count=left,
        size=size,
        part_size=part_size,
        schema=schema,
        compression=compression,
        indexes=indexes,
    )
    parts += [part for part, _ in added]
    statistics += [row for _, row in added]
    manifest = Manifest(
        _version_in(folder, base, directory),
        tuple(parts),
        schema,
        next_id,
        snapshot.position.number,
        indexes,
        compression=compression,
        name=name,
        run=snapshot.position.run,
        directory=directory,
        former=_former(base, folder.path),
        rules=rules,
        tags=tags,
    )
    return PartedBase(folder, folder.commit(manifest, statistics, announce))


def _version_in(folder: PartFolder, base: Base, directory: bytes) -> int:
    """Return the next version of a base in a folder."""
    version = base.hint.version + 1
    if isinstance(base, PartedBase) and base.folder is folder:
        return version
    versions = folder.versions()  # The folder may belong to another collection.
    if versions and is_url(folder.path):
        if folder.current().directory == directory:
            return version  # The manifest is written on the condition that it does not exist.
        raise WriteConflict(
            f"another writer created the folder {folder.path}",
            advice="open the directory again, or remove the folder if it is not wanted",
        )
    return max([version, *(existing + 1 for existing in versions)])


def _next_version(base: Base, directory: bytes) -> int:
    """Return the next version of a file, ignoring versions of other directories."""
    return base.hint.version + 1 if base.hint.directory == directory else 1


def _former(base: Base, target: object) -> int:
    """Return the fingerprint of a base at another path, or 0 if the target has the same path."""
    return 0 if base.path in (None, target) else base.hint.fingerprint


def write_snapshots(
    target: AbstractContextManager[BinaryIO],
    snapshots: Sequence[tuple[str, Snapshot, int, tuple[str, ...], bytes]],
    *,
    keep_extras: bool,
    threads: int,
    compression: CompressionName = "lz4",
    directory: bytes = b"",
    former: int = 0,
) -> int:
    """Write collections to a file, copying unmodified documents byte for byte.

    Parameters
    ----------
    target : context manager
        Context that opens the file, such as :func:`~godb_arrow.storage.replace.replace_file`.
    snapshots : sequence of tuples
        Name, snapshot, next generated id, indexed fields and rules of each collection.
    keep_extras : bool
        Whether to keep other keys of the first collection's file.
    threads : int
        Number of compressing threads.
    compression : str
        Compression of the file.
    directory : bytes
        UUID of the data directory that the file belongs to; empty for a single file.
    former : int
        Fingerprint of the file or folder that the file supersedes; 0 for the same path.

    Returns
    -------
    int
        Number of documents written.
    """
    collections, indexes = [], {}
    metadata: dict[bytes, bytes] = {}
    others: dict[str, bytes] = {}
    for name, snapshot, next_id, fields, rules in snapshots:
        base = snapshot.base
        if keep_extras and base.path is not None and not base.hint.plain:
            existing = read_existing(base.open().source, base.open().name)
            metadata, others = existing.metadata, existing.others
        hint = CollectionHint(
            snapshot.live_count(),
            next_id,
            snapshot.settle_schema(),
            size_of(snapshot),
            snapshot.position.number,
            fields,
            plain=not metadata and not set(others) - {"indexes"},
            version=_next_version(base, directory),
            compression=compression,
            run=snapshot.position.run,
            directory=directory,
            former=former,
            rules=rules,
        )
        runs = MergedRuns(snapshot, base.files(), changes=True, fields=fields)
        packed = runs.packed(0, hint.count)
        data = CollectionData(name, hint.count, snapshot.chunks(), hint, packed)
        collections.append(data)
        shown = _go_indexes(snapshot, fields)
        if shown:
            indexes[name] = shown
    others.pop("indexes", None)
    if indexes:
        others["indexes"] = codec.pack(indexes)
    with target as stream:
        write_file(
            stream,
            collections,
            metadata=metadata,
            others=others,
            compression=compression,
            threads=threads,
        )
    return sum(data.count for data in collections)


def size_of(snapshot: Snapshot) -> int | None:
    """Return an estimate of the bytes of all entries, or None if it is unknown."""
    base, dead = snapshot.base, len(snapshot.superseded_rows())
    changed = sum(len(run.raw()) for run in snapshot.overlay_runs())
    size = base.hint.size
    if size is not None and size > _MAX_RATIO * base.file_size:
        size = None  # A file with a false size could force any number of parts.
    if base.count == dead:
        return changed
    return None if size is None else size - size * dead // base.count + changed


def _go_indexes(snapshot: Snapshot, fields: Sequence[str]) -> dict[str, list[Any]]:
    """Return indexes in go-db's form, from fields to the ids of documents that have a value.

    go-db indexes only top-level fields, and fails on lists and maps.
    """
    schema = snapshot.schema()
    names = [
        name
        for name in fields
        if name in schema.names
        and not isinstance(schema.field(name).type, pa.BaseExtensionType)
        and not pa.types.is_nested(schema.field(name).type)
    ]
    indexes: dict[str, list[Any]] = {name: [] for name in names}
    if not names:
        return indexes
    projection = project(schema, list(dict.fromkeys([ID_FIELD, *names])), None)
    plan = codec.plan_columns(projection.decoded)
    for entries in snapshot.entries():
        batch = projection.apply(codec.decode_batch(entries, plan))
        for name in names:
            has_value = pc.is_valid(batch.column(name))
            indexes[name].extend(batch.column(ID_FIELD).filter(has_value).to_pylist())
    return indexes
