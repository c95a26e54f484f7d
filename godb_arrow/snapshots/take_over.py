"""Files of a renamed collection, moved from its former folder to its new one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace

from godb_arrow.errors import FormatError, SourceNotFound
from godb_arrow.snapshots.manifest import Manifest, manifest_name, versions_in, write_manifest
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.snapshots.sweep import files_of
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = ["keeps_versions", "take_over"]

logger = logging.getLogger(__name__)


def keeps_versions(folder: PartFolder) -> bool:
    """Return whether :func:`take_over` keeps earlier versions.

    They become readable before the save that moves the collection ends. Only a journal tells that
    they are not the current state, and object stores have none.
    """
    return not is_url(folder.path)


def take_over(folder: PartFolder, base: PartedBase, name: str, access: Access) -> None:
    """Link or copy the files of a collection's former folder, with its versions.

    Parameters
    ----------
    folder : PartFolder
        Folder of the new name.
    base : PartedBase
        Current version of the collection in its former folder.
    name : str
        New name of the collection.
    access : Access
        Permissions that a new folder has at most.
    """
    manifests = [base.manifest]
    if keeps_versions(folder):
        folder.remove()  # A save that failed left files, whose numbers others have got since.
        manifests = [*_complete_before(base), base.manifest]
    folder.make(access)
    former = base.folder.content
    for file in dict.fromkeys(file for one in manifests for file in sorted(files_of(one))):
        folder.content.share(former, file)
    folder.content.sync()  # A manifest must never exist without its files.
    for manifest in manifests if keeps_versions(folder) else ():
        limit = access & former.access_of(manifest_name(manifest.version))
        write_manifest(folder.content, replace(manifest, name=name), limit)


def _complete_before(base: PartedBase) -> Iterator[Manifest]:
    """Yield the earlier manifests whose files exist, in order."""
    folder = base.folder
    names = set(folder.content.names())
    for version in versions_in(names):
        if version >= base.manifest.version:
            continue
        try:
            manifest = folder.manifest(version)
        except (FormatError, SourceNotFound) as error:
            logger.warning("version %d of %s is not kept: %s", version, folder.path, error)
            continue
        if files_of(manifest) <= names:
            yield manifest
        else:
            logger.warning("version %d of %s is not kept: it lacks files", version, folder.path)
