"""Content of an existing file that is rewritten."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.arrow_compute import pc
from godb_arrow.codec.entries import Chunk
from godb_arrow.documents.encoding import threads
from godb_arrow.documents.ids import ids_of
from godb_arrow.errors import CollectionExists, SourceNotFound
from godb_arrow.file.draft import MANY, Draft
from godb_arrow.file.format import TAIL_SIZE, is_sealed, split_map
from godb_arrow.file.hints import HINTS_KEY, CollectionHint, read_hints
from godb_arrow.file.reader import CollectionSection, GodbReader
from godb_arrow.file.writer import CollectionData
from godb_arrow.options import MAX_DOCUMENT_BYTES, ReadOptions
from godb_arrow.parallel import ordered_map
from godb_arrow.query.statistics import covered, decode_statistics
from godb_arrow.schema import ID_FIELD
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.source import Source, open_source

_OPTIONS = ReadOptions(max_document_bytes=MAX_DOCUMENT_BYTES)


@dataclass(slots=True)
class ExistingFile:
    """Content of a file before it is rewritten."""

    source: Source | None = None
    collection: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    hints: dict[str, CollectionHint] = field(default_factory=dict)
    metadata: dict[bytes, bytes] = field(default_factory=dict)
    others: dict[str, bytes] = field(default_factory=dict)
    version: Expected = None

    @property
    def has_collection(self) -> bool:
        """Whether the file has the collection."""
        return self.collection in self.counts

    def refuse_collection(self) -> None:
        """Raise CollectionExists if the file has the collection."""
        if self.has_collection:
            raise CollectionExists(
                "the file already has this collection",
                advice='use if_exists="replace" or "append"',
            )

    def _sections(self, stream: Any) -> Iterator[CollectionSection]:
        assert self.source is not None
        for section in GodbReader(stream, self.source.size()).sections():
            if isinstance(section, CollectionSection):
                yield section

    def agree_on_schema(self, draft: Draft) -> None:
        """Make a draft infer its schema, if the collection's recorded schema differs."""
        if not self.has_collection:
            return
        hint = self.hints.get(self.collection)
        recorded = None if hint is None else hint.schema
        draft.keep_types(recorded)
        if draft._schema is not None and (
            recorded is None or not recorded.equals(draft._schema, check_metadata=True)
        ):
            draft.infer_all()

    @property
    def next_id(self) -> int:
        """Number of the collection's next generated id, as the file records it."""
        hint = self.hints.get(self.collection)
        return 1 if hint is None or hint.next_id is None else hint.next_id

    def join(self, draft: Draft) -> None:
        """Insert the documents that the draft does not replace before the draft's own."""
        new, draft.replaced = draft.replaced, None
        without = None if new is None else pa.chunked_array(new, pa.binary()).combine_chunks()
        draft.put_after(lambda: self.copy_collection(draft, without), self.next_id)

    def refreshed(self, path: Any) -> ExistingFile:
        """Return the content of the file now that this process has locked it.

        Object stores have no locks. There the write fails if the object was replaced.
        """
        if self.version is None or is_url(os.fspath(path)):
            return self
        if self.version == (open_source(path).version() or "absent"):
            return self
        return read_existing(path, self.collection)

    def copy_collection(self, draft: Draft, without: pa.Array | None = None) -> None:
        """Copy the collection's documents into a draft, except those with some ids."""
        if self.source is None or not self.has_collection:
            return
        with self.source.open() as stream:
            for section in self._sections(stream):
                if section.name == self.collection:
                    for entries in section.entries(_OPTIONS):
                        if without is not None:
                            replaced = pc.is_in(ids_of(entries), value_set=without)
                            rows = np.flatnonzero(~replaced.to_numpy(zero_copy_only=False))
                            entries = codec.take(entries, rows)
                        if len(entries):
                            draft.add_existing(entries)

    def kept(self) -> list[CollectionData]:
        """Return the other collections, which are copied unchanged."""
        names = [name for name in self.counts if name != self.collection]
        if not names:
            return []
        copier = self._copier()
        return [
            CollectionData(name, self.counts[name], copier(name), self._hint_of(name))
            for name in names
        ]

    def _hint_of(self, name: str) -> CollectionHint:
        """Return the hint of a collection that is kept beside another one."""
        hint = self.hints.get(name)
        return CollectionHint(self.counts[name]) if hint is None else replace(hint, plain=False)

    def _copier(self) -> Callable[[str], Iterator[Chunk]]:
        """Return a function that copies a collection, while the file is read only once."""

        def copies() -> Iterator[tuple[str, codec.Entries]]:
            assert self.source is not None
            with self.source.open() as stream:
                for section in self._sections(stream):
                    if section.name != self.collection:
                        for entries in section.entries(_OPTIONS):
                            yield from ((section.name, part) for part in entries.split())

        def describe(section: tuple[str, codec.Entries]) -> tuple[str, Chunk]:
            name, entries = section
            hint = self.hints.get(name)
            known = None
            if hint is not None and hint.schema is not None and hint.count > MANY:
                known = decode_statistics(entries, covered(hint.schema))
            return name, Chunk(entries.raw(), len(entries), known)

        stream = ordered_map(describe, copies(), threads())
        ahead: list[tuple[str, Chunk]] = []

        def copy(name: str) -> Iterator[Chunk]:
            while True:
                copied = ahead.pop() if ahead else next(stream, None)
                if copied is None:
                    return
                if copied[0] != name:
                    ahead.append(copied)
                    return
                yield copied[1]

        return copy

    def with_index_of(self, documents: Iterator[codec.Entries]) -> dict[str, bytes]:
        """Return the other top-level keys, with go-db's index of the collection rebuilt.

        Parameters
        ----------
        documents : iterator of Entries
            New documents of the collection, which are read only for an index.
        """
        raw = self.others.get("indexes")
        if raw is None or not self.has_collection:
            return self.others
        indexes = _load_map(raw)
        fields = indexes.get(self.collection)
        if not isinstance(fields, dict) or not fields:
            return self.others
        ids: dict[Any, list[str] | None] = {name: [] for name in fields}
        for entries in documents:
            for position in range(len(entries)):
                _index(entries.id(position), codec.load(entries.document(position)), ids)
        # go-db fails on an index over a list or map.
        indexes[self.collection] = {name: found for name, found in ids.items() if found is not None}
        return {**self.others, "indexes": codec.pack(indexes)}


def _index(identity: str, document: dict[Any, Any], ids: dict[Any, list[str] | None]) -> None:
    for name, found in ids.items():
        value = identity if name == ID_FIELD else document.get(name)
        if isinstance(value, (list, dict)):
            ids[name] = None
        elif value is not None and found is not None:
            found.append(identity)


def read_existing(path: Any, collection: str) -> ExistingFile:
    """Read the content of a file; a missing file has none."""
    existing = ExistingFile(collection=collection)
    if not isinstance(path, (str, os.PathLike, Source)):
        return existing
    source = open_source(path)
    if isinstance(path, (str, os.PathLike)):
        # If the file is replaced after this point, the new file is not written.
        existing.version = source.version() or "absent"
    try:
        sealed = is_sealed(source.tail(TAIL_SIZE))
    except SourceNotFound:
        return existing
    if source.size() == 0:
        return existing
    existing.source = source
    with source.open() as stream:
        for section in GodbReader(stream, source.size()).sections():
            if isinstance(section, CollectionSection):
                existing.counts[section.name] = section.count
            elif section.key == "metadata":
                raw = section.read()
                existing.metadata = split_map(raw)
                existing.metadata.pop(codec.pack(HINTS_KEY), None)
                existing.hints = read_hints(raw) if sealed else {}
                if len(existing.hints) == 1:
                    ((name, hint),) = existing.hints.items()
                    if hint.plain and not hint.indexes:  # The file has no other content.
                        existing.counts[name] = hint.count
                        return existing
            else:
                existing.others[section.key] = section.read()
    return existing


def _load_map(raw: bytes) -> dict[Any, Any]:
    loaded: Any = msgpack.unpackb(
        raw, raw=False, unicode_errors="surrogateescape", strict_map_key=False, timestamp=0
    )
    return loaded if isinstance(loaded, dict) else {}
