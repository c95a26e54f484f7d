"""Part files: the base of one part, and parts that no manifest names yet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from godb_arrow.errors import CorruptFile, SourceNotFound
from godb_arrow.file.checked import EXACT_BYTES
from godb_arrow.file.locate import StoredCollection
from godb_arrow.memory.limit import Memory
from godb_arrow.query.statistics import Row
from godb_arrow.snapshots.base import Base, replaced
from godb_arrow.snapshots.held import Documents
from godb_arrow.snapshots.id_index import CODEC_HASHES, IdFile, IdIndex, id_file_size, read_id_file
from godb_arrow.snapshots.manifest import Manifest, Part
from godb_arrow.storage.folder import Folder
from godb_arrow.storage.object_store import is_url

__all__ = ["PartFile", "WrittenPart", "check_part_size"]


def check_part_size(part: Part, name: str, size: int) -> None:
    """Check the size of a part's file or id file, before the file is copied.

    Parameters
    ----------
    part : Part
        Entry of the part in a manifest.
    name : str
        Name of the file, without its folder.
    size : int
        Size of the file in bytes.

    Raises
    ------
    CorruptFile
        The manifest records another size.
    """
    recorded = part.file_size if name == part.file else id_file_size(part.documents)
    if size != recorded:
        raise CorruptFile(
            f"the file {name} has {size} bytes, but its manifest records {recorded}",
            offset=min(size, recorded),
            where="file",
            advice="restore the file from a copy",
        )


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """Part that a process wrote, before any manifest names it.

    Attributes
    ----------
    token : str
        Token in the names of its files.
    part : Part
        Description of the part.
    schema : bytes
        Schema of the documents.
    statistics : Row or None
        Statistics of the documents.
    greatest : int
        Max number among the ids.
    """

    token: str
    part: Part
    schema: bytes
    statistics: Row | None
    greatest: int


class PartFile(Base):
    """Base of one part, with its id file.

    Parameters
    ----------
    memory : Memory
        Cache for what is read.
    folder : Folder
        Folder of the file.
    manifest : Manifest
        Manifest that names the file.
    part : Part
        Entry of the file in the manifest.
    is_ours : bool
        Whether no other program writes the folder.
    check : callable
        Raises SourceNotFound if the manifest was removed.
    """

    def __init__(
        self,
        memory: Memory,
        folder: Folder,
        manifest: Manifest,
        part: Part,
        *,
        is_ours: bool,
        check: Callable[[Manifest], None],
    ) -> None:
        name = part.file
        super().__init__(
            memory,
            folder.place(name),
            is_ours=is_ours,
            may_close=None if is_ours else True,
            hold=lambda _: folder.hold(name),
        )
        self._files = folder
        self._ids_checksum = part.ids_checksum
        self._documents_in_part, self._ids_file = part.documents, part.ids_file
        # Known only until it was there after the file was opened: it has the deleted rows of a
        # version, which need not stay in memory.
        self._unchecked = None if is_ours else manifest
        self._check = check
        self.collection_size = 0  # bytes of documents in all parts
        self.described: set[str] = set()  # fields of the manifest's statistics that were compared

    @property
    def is_named(self) -> bool:
        """Whether the manifest existed after the file was opened."""
        return self._unchecked is None

    def note_named(self) -> None:
        """Note that the manifest existed after the file was opened."""
        self._unchecked = None

    def open(self) -> StoredCollection:
        """Return the collection in the file that the manifest names, after opening it.

        Raises
        ------
        SourceNotFound
            Another process removed the file, or the manifest that names it.
        """
        try:
            unchecked = self._unchecked
            if unchecked is not None:
                pin = self.pin()  # noqa: F841 (It keeps the file open until it is checked.)
                self._check(unchecked)
                self.note_named()
            stored = super().open()
        except SourceNotFound as gone:
            if self.is_ours:
                raise
            raise replaced(self.path or "") from gone
        if stored.count != self._documents_in_part:
            error = CorruptFile(
                f"the file has {stored.count} documents, but the manifest records "
                f"{self._documents_in_part}",
                offset=0,
                where="file",
                advice="restore it from a backup",
            )
            error.operation, error.source = "read", self.path
            raise error
        return stored

    def documents(self) -> Documents | None:
        """Return the documents in memory, or None if all parts do not fit into it.

        Otherwise reads of single documents would load and evict whole parts.
        """
        if self.view("documents") is None and 2 * self.collection_size > self.memory.room:
            return None
        return super().documents()

    def has_valid_ids(self) -> bool:
        """Return whether the id file matches its checksum."""
        return read_id_file(self._files, self._ids_file, self._ids_checksum) is not None

    def has_all_ids(self) -> bool:
        """Return whether a valid id file has as many ids as the part has documents."""
        stored = read_id_file(self._files, self._ids_file, self._ids_checksum)
        return stored is None or len(stored.ids.hashes) == self._documents_in_part

    def ids(self) -> IdIndex:
        """Return the index of ids, mapped from its file so that only needed pages are read."""
        index: IdIndex | None = self.view("ids")
        if index is None:
            # The documents of a small collection are scanned as fast.
            is_small = self.collection_size <= EXACT_BYTES
            stored = self.stored_ids() if self.memory.use_hints and not is_small else None
            if stored is None:
                return super().ids()
            index = stored
            # The system can reclaim the pages of a mapped file.
            self.hold("ids", index, index.nbytes if is_url(self._files.path) else 0)
        return index

    def stored_ids(self) -> IdIndex | None:
        """Return the index in the id file, or None if it is damaged or has other hashes."""
        stored = read_id_file(self._files, self._ids_file, self._ids_checksum)
        return None if stored is None or not self._is_usable(stored) else stored.ids

    def _is_usable(self, stored: IdFile) -> bool:
        """Return whether an id file has as many ids as the part, and hashes of both codecs."""
        documents = self._documents_in_part
        if len(stored.ids.hashes) != documents or not documents:
            return False
        if stored.version != CODEC_HASHES:
            return True
        runs = self.runs()  # keeps the file open until the document is loaded
        first = next(runs, None)
        return first is None or 0 in stored.ids.candidates_of(first.load().id(0))
