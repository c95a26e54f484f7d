"""Data directories as the source and the target of a copy."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from godb_arrow.connectors.etl.base import STATE, Data, Origin, Target
from godb_arrow.connectors.etl.origins import CollectionOrigin
from godb_arrow.connectors.etl.targets import STAGED, staged_in
from godb_arrow.directory.places import is_data_directory
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.engine.replacing import replace_collection
from godb_arrow.file.writing import write_godb
from godb_arrow.options import IfExists
from godb_arrow.query.filters import Filter
from godb_arrow.storage.modes import Access, restrict_file
from godb_arrow.storage.object_store import is_url

__all__ = ["EngineOrigin", "EngineTarget"]


class EngineOrigin(Origin):
    """Collection of a data directory, which is open only while it is read."""

    def __init__(self, place: str, collection: str, name: str, batch_size: int | None) -> None:
        self.name = name
        self._place, self._collection, self._batch_size = place, collection, batch_size
        with self._source() as source:
            self._total, self._mixed = source.total(), source.conflicts()

    @contextmanager
    def _source(self) -> Iterator[CollectionOrigin]:
        with StorageEngine(self._place, read_only=True) as engine:
            yield CollectionOrigin(engine[self._collection], self.name, self._batch_size)

    def total(self) -> int:
        """Return the number of documents, if known."""
        return self._total

    def conflicts(self) -> list[str]:
        """Return the fields whose values have several types."""
        return self._mixed

    @contextmanager
    def opened(
        self, as_documents: bool, columns: Sequence[str] | None, filter: Filter | None
    ) -> Iterator[Data]:
        """Open the source as documents or record batches."""
        with self._source() as source, source.opened(as_documents, columns, filter) as data:
            yield data


class EngineTarget(Target):
    """Collection of a data directory."""

    takes_documents = True

    def __init__(self, name: str, place: str, part: str, id_column: str | None) -> None:
        super().__init__(name)
        self.place, self.collection, self._id_column = place, part, id_column

    def exists(self) -> bool:
        """Return whether the target exists."""
        if not is_data_directory(self.place):
            return False
        with StorageEngine(self.place, read_only=True) as engine:
            return self.collection in engine

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents or none."""
        name = self.collection
        with StorageEngine(self.place) as engine:
            if if_exists == "error" and name in engine:  # Another writer created it meanwhile.
                raise self.refuse_existing()
            if if_exists in ("append", "upsert") and name in engine:
                insert = engine.upsert_many if if_exists == "upsert" else engine.insert_many
                with self._forgotten(engine):
                    insert(name, data, id_column=self._id_column)
                return
            # The whole collection is written to a file beside the others, and then adopted.
            with self._staged() as folder:
                path = os.path.join(folder, "copy.godb")
                write_godb(data, path, name, id_column=self._id_column)
                before = engine[name].path if name in engine else None
                # A file that replaces another keeps its mode.
                if before is not None and not is_url(before):
                    restrict_file(path, Access.of_file(os.stat(before)))
                with self._forgotten(engine):
                    if name in engine:
                        replace_collection(engine, name, path)
                    else:
                        engine.load_collection_metadata(path)
                engine.save()

    @contextmanager
    def _forgotten(self, engine: StorageEngine) -> Iterator[None]:
        """Forget the token of incremental copies, which do not know the documents to write."""
        state = engine[STATE].get(self.collection, None) if STATE in engine else None
        if state is None:
            yield
            return
        before = self._present(engine)
        engine.delete(STATE, self.collection)
        try:
            yield
        except BaseException:
            if self._present(engine) is before:  # The documents are unchanged.
                engine.upsert_many(STATE, [state])
            raise

    def _present(self, engine: StorageEngine) -> Collection | None:
        """Return the collection, if it exists."""
        if self.collection not in engine:
            return None
        return engine[self.collection]

    def _staged(self) -> AbstractContextManager[str]:
        """Return a context with a local folder for the new file."""
        if is_url(self.place):
            return tempfile.TemporaryDirectory(prefix="godb-arrow-")
        return staged_in(self.place, STAGED)
