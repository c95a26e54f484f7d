"""Deletion of old backups."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

from godb_arrow.errors import InvalidOption, VersionNotFound, error_context
from godb_arrow.keywords import explain_keywords
from godb_arrow.replication.backup import BackupPlace, check_keep, description_name
from godb_arrow.storage.url_options import StorageOptions, with_options

__all__ = ["delete_backups"]

logger = logging.getLogger(__name__)


@explain_keywords
def delete_backups(
    target: str | os.PathLike[str],
    numbers: Sequence[int] | None = None,
    *,
    keep: int | None = None,
    storage_options: StorageOptions = None,
) -> list[int]:
    """Delete backups, and the files that no other backup in the same place has.

    Descriptions are deleted first. So each backup is whole or does not exist, even if the process
    is killed. Files that such a process leaves stay until a later backup uses them.

    Parameters
    ----------
    target : path or URL
        Folder or URL of the backups.
    numbers : sequence of int, optional
        Numbers of the backups to delete.
    keep : int, optional
        Number of the last backups to keep, instead of `numbers`.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.

    Returns
    -------
    list of int
        Numbers of the deleted backups.

    Raises
    ------
    InvalidOption
        Not exactly one of `numbers` and `keep` is given.
    VersionNotFound
        A backup does not exist. No backup was deleted.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> place = tempfile.mkdtemp()
    >>> with godb_arrow.StorageEngine(tempfile.mkdtemp()) as engine:
    ...     for name in ("users", "orders"):
    ...         _ = engine.create_collection(name).insert({"n": 1})
    ...         _ = engine.backup(place)
    >>> delete_backups(place, keep=1)
    [1]
    """
    if (numbers is None) == (keep is None):
        raise InvalidOption("numbers and keep are alternatives", advice="give exactly one")
    check_keep(keep)
    with with_options(target, storage_options), error_context("delete backups", os.fspath(target)):
        place = BackupPlace(os.fspath(target))
        with place.locked():
            known = place.numbers()
            chosen = known[:-keep] if keep is not None else sorted(set(numbers or ()))
            missing = sorted(set(chosen) - set(known))
            if missing:
                raise VersionNotFound(
                    f"there is no backup {missing[0]}",
                    advice=f"there are {', '.join(map(str, known))}",
                )
            _delete(place, chosen)
            return chosen


def _delete(place: BackupPlace, chosen: Sequence[int]) -> None:
    described = {number: place.read(number) for number in place.numbers()}
    kept = {
        file.digest
        for number, description in described.items()
        if number not in chosen
        for file in description.files
    }
    for number in chosen:
        place.descriptions.remove(description_name(number))
    place.descriptions.sync()
    unused = {file.digest for number in chosen for file in described[number].files} - kept
    for digest in sorted(unused):
        folder = place.folder_of(digest)
        if not folder.lacks(digest):
            folder.remove(digest)
    logger.info("deleted %d backups with %d files", len(chosen), len(unused))
