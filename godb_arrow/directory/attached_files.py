"""Attached files: copies of foreign files from which collections are read until they are saved."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Iterable
from contextlib import suppress

from godb_arrow.directory.names import ATTACHED, is_attached_name
from godb_arrow.errors import CorruptFile, SourceNotFound, StorageError, storage_errors
from godb_arrow.memory.limit import Memory
from godb_arrow.snapshots.base import Base
from godb_arrow.storage import local
from godb_arrow.storage.folder import Folder
from godb_arrow.storage.holes import check_dense
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import Source

__all__ = ["AttachedFiles"]


_COPY_BYTES = 1 << 20  # of a file that are copied at once


class AttachedFiles:
    """Attached files of a data directory.

    Parameters
    ----------
    memory : Memory
        Memory limit.
    root : Folder
        The data directory.
    folder : Folder
        Folder of the copies.
    trust_journal : bool
        Whether to open files outside of the directory that its journal names.
    """

    def __init__(
        self, memory: Memory, root: Folder, folder: Folder, *, trust_journal: bool
    ) -> None:
        self._memory = memory
        self._root = root
        self._folder = folder
        self._trust_journal = trust_journal

    def attach(self, location: str) -> str:
        """Copy a file into the directory, for collections that are not saved yet.

        Parameters
        ----------
        location : path or URL
            A GODB file.

        Returns
        -------
        str
            Path of the copy, which is synced to the disk.

        Raises
        ------
        StorageError
            The file cannot be read, or the copy cannot be written.
        """
        folder = self._folder
        name = uuid.uuid4().hex + ATTACHED
        with Source(location).open() as source:
            access = folder.access()
            if not is_url(location):  # The copy must not be more readable than the file.
                access &= Access.of_file(os.fstat(source.fileno()))
                check_dense(location, source.fileno())
            with folder.replace(name, access) as target:
                shutil.copyfileobj(source, target, _COPY_BYTES)
        return folder.place(name)

    def attach_again(self, path: str) -> str:
        """Link an attached file under another name, for another one of its collections.

        Returns
        -------
        str
            Path of the new name.
        """
        other = self._folder.place(uuid.uuid4().hex + ATTACHED)
        with storage_errors("attach", other):
            try:
                local.disk.link(path, other)
            except OSError:  # The file system has no links.
                return self.attach(path)
            local.disk.sync_folder(self._folder.path)
        return other

    def base(self, path: str, collection: str) -> Base:
        """Return the documents of an attached file."""
        folder, name = self._folder, os.path.basename(path)
        return Base(
            self._memory,
            path,
            collection,
            is_ours=False,
            hold=lambda _: folder.hold(name),
            refusal=_refusal_of(folder, name),
        )

    def recovered_base(self, name: object, collection: str) -> Base:
        """Return the documents of an attached file that the journal names.

        Raises
        ------
        CorruptFile
            The name is not one that an engine gives to files.
        """
        if not is_attached_name(name):
            raise CorruptFile(
                f"the journal names the impossible attached file {name!r}",
                offset=0,
                where="file",
                advice="restore the data directory from a copy",
            )
        return self.named_base(f"collections/{name}", collection)

    def detach(self, paths: Iterable[str]) -> None:
        """Remove attached files that exist."""
        folder = self._folder
        for path in paths:
            with suppress(SourceNotFound):
                folder.remove(os.path.basename(path))

    def remove_unused(self, used: Collection[str]) -> None:
        """Remove the attached files that no collection uses."""
        folder = self._folder
        paths = map(folder.place, folder.files(is_attached_name))
        self.detach(path for path in paths if path not in used)

    def named_base(self, path: object, collection: str) -> Base:
        """Return the documents of a file that the journal names.

        A file outside of the directory is refused when it is opened, unless the journal is trusted.

        Parameters
        ----------
        path : str
            Path below the directory, relative or absolute. Version 0.1 also recorded other paths
            and URLs.
        collection : str
            Name of the collection in the file.
        """
        name = str(path)
        below = self._below(path) if isinstance(path, str) else None
        if below is not None:
            *folders, file = below
            folder = self._root
            for inner in folders:
                folder = folder.folder(inner)
            return Base(
                self._memory,
                folder.place(file),
                collection,
                is_ours=False,
                hold=lambda _: folder.hold(file),
                refusal=_refusal_of(folder, file),
            )
        if self._trust_journal and isinstance(path, str):
            return Base(self._memory, name, collection, is_ours=False)
        refusal = StorageError(
            f"the journal attaches {name!r}, which is outside of the data directory",
            advice="if you trust the directory, open it once with trust_journal=True and save; "
            "otherwise drop the collection, and attach the file again",
        )
        refusal.operation, refusal.source = "attach", self._root.path
        return Base(self._memory, name, collection, is_ours=False, refusal=refusal)

    def _below(self, path: str) -> list[str] | None:
        """Return the path of a file below the directory as names, or None for a file outside."""
        if is_url(path) or "\0" in path:
            return None
        candidates = [path]
        if os.path.isabs(path):
            roots = (self._root.path, os.path.realpath(self._root.path))
            candidates = [os.path.relpath(path, root) for root in roots]
        for names in (candidate.split(os.sep) for candidate in candidates):
            if not {"", ".", ".."} & {*names}:
                return names
        return None


def _refusal_of(folder: Folder, name: str) -> StorageError | None:
    """Return the error for a file that is a symbolic link or of another kind, or None."""
    try:
        folder.access_of(name)
    except StorageError as error:
        return error
    return None
