"""Data directories on object stores."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

from godb_arrow.directory.attached_files import AttachedFiles
from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.directory.identity import ensure_identity
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import fetch_journal
from godb_arrow.directory.journal_reader import Replayed, read_journal
from godb_arrow.directory.places import full_path
from godb_arrow.directory.records import Record
from godb_arrow.file.hints import JournalPosition
from godb_arrow.memory.limit import Memory
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import Expected, is_url

__all__ = ["RemoteDirectory"]


class RemoteDirectory(DataDirectory):
    """Data directory on an object store.

    A collection's file is replaced by one upload, on the condition that its version is the one that
    was read. A manifest is written on the condition that its version does not exist. So the second
    of two writers gets :class:`~godb_arrow.WriteConflict`, and no change is overwritten silently.
    There is no lock. The journal is a local temporary one, so a crash loses unsaved changes.
    """

    def __init__(
        self,
        url: str,
        memory: Memory | None = None,
        *,
        read_only: bool = False,
        trust_journal: bool = False,
    ) -> None:
        self._trust_journal = trust_journal
        self._describe(full_path(url), memory, read_only, trust_journal)
        self._lock = None
        self._journal = None
        self._replaced: dict[str, Expected] = {}  # versions of files, by path
        self._temporary: weakref.finalize[..., Any] | None = None
        self._follower = self._check_follower()
        if not read_only:
            self.identity = ensure_identity(self.path)

    def check_place(self) -> None:
        """Do nothing, since a URL always leads to the same place."""

    @property
    def keeps_journal(self) -> bool:
        """False, since the journal is a temporary one."""
        return False

    @contextmanager
    def recovering(self) -> Iterator[list[Record]]:
        """Enter with the records of a follower's journal, and with none for other directories."""
        records = self._read_while_written()
        folder = tempfile.mkdtemp(prefix="godb-arrow-journal-")
        self.attached_files = AttachedFiles(
            self.memory, self._root, open_folder(folder), trust_journal=self._trust_journal
        )
        self._temporary = weakref.finalize(self, _remove_folder, folder, os.getpid())
        journal = Journal(folder)
        list(journal.recover())
        if records:
            journal.skip_to(records[-1].last + 1)
        self._journal = journal
        yield records

    def _read_while_written(self) -> list[Record]:
        if self._follower is None:
            return []
        with tempfile.TemporaryDirectory(prefix="godb-arrow-journal-") as folder:
            fetch_journal(f"{self.path}/journal", folder)
            replayed = Replayed()
            records = list(read_journal(folder, replayed))
            self._lineage = replayed.lineage
            return records

    def is_overtaken(self, positions: Iterable[JournalPosition]) -> bool:
        """Return False, since no other process writes the journal."""
        return False

    def expected_at(self, path: str, base: Base) -> Expected:
        """Return the version of the base or of the file that it replaces, else "absent"."""
        if base.path != path:
            return self._replaced.get(path, "absent")
        return base.open().source.version()

    def note_replaced(self, base: Base) -> Literal["file"] | None:
        """Note the version of a file that another base is to replace, and return the new form.

        A folder is replaced by a file, since a kill must not leave parts of both in one folder. The
        folder counts until it is removed, because its version is higher.
        """
        if isinstance(base, PartedBase):
            return "file"
        if base.path is not None and is_url(base.path):
            self._replaced[base.path] = base.open().source.version()
        return None

    def remove(self, path: str) -> None:
        """Remove a collection's file or folder, if it exists and belongs to the directory."""
        super().remove(path)
        self._replaced.pop(path, None)

    def close(self, *, stored: bool = False) -> None:
        """Remove the temporary journal."""
        super().close(stored=stored)
        if self._temporary is not None:
            self._temporary()


def _remove_folder(path: str, process: int) -> None:
    if process == os.getpid():  # In a forked child the folder belongs to the parent.
        shutil.rmtree(path, ignore_errors=True)
