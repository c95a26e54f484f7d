"""Collections of an engine by name; each is created when it is first used."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from godb_arrow.directory.names import stem
from godb_arrow.engine.open_collection import OpenCollection

__all__ = ["Catalog"]


class Catalog:
    """Collections by name.

    A collection that was never used is a name and a path: ten thousand of them take a few MiB.

    Parameters
    ----------
    files : mapping of str to str
        Collections that have a file, and its path.
    make : callable
        Makes a collection from a name and a path.

    Attributes
    ----------
    lock : RLock
        Held while collections are created, dropped or renamed.
    """

    def __init__(
        self, files: Mapping[str, str], make: Callable[[str, str], OpenCollection]
    ) -> None:
        self.lock = threading.RLock()
        self._files = dict(files)
        self._make = make
        self._used: dict[str, OpenCollection] = {}
        self._stems: dict[str, OpenCollection] = {}  # the same ones, by the stem of their files
        self._changing = threading.Lock()

    def get(self, name: str) -> OpenCollection | None:
        """Return the collection of a name, or None."""
        found = self._used.get(name)
        if found is None and name in self._files:
            with self._changing:
                found = self._used.get(name)
                if found is None and name in self._files:
                    found = self[name] = self._make(name, self._files[name])
                    del self._files[name]
        return found

    def of_stem(self, stem: str | None) -> OpenCollection | None:
        """Return the used collection whose files have a stem, or None."""
        return None if stem is None else self._stems.get(stem)

    def __setitem__(self, name: str, collection: OpenCollection) -> None:
        self._used[name] = self._stems[stem(name)] = collection

    def __delitem__(self, name: str) -> None:
        del self._used[name], self._stems[stem(name)]

    def discard(self, name: str) -> None:
        """Remove a collection, if there is one of that name."""
        self._used.pop(name, None)
        self._stems.pop(stem(name), None)

    def __contains__(self, name: object) -> bool:
        return name in self._used or name in self._files

    def __len__(self) -> int:
        return len(self._used) + len(self._files)

    def names(self) -> list[str]:
        """Return the sorted names."""
        with self._changing:
            return sorted({*self._used, *self._files})

    def update(self, found: Catalog) -> None:
        """Update the names from a catalog that was read later.

        A used collection stays the same object. A collection that the other catalog lacks is
        dropped, unless its documents were read.

        Parameters
        ----------
        found : Catalog
            Collections that another process has in the directory now.
        """
        with self._changing:
            files, used = dict(found._files), dict(found._used)
            for name, collection in self._used.items():
                if name in found or collection.store.was_read:
                    used[name] = collection
                    files.pop(name, None)
                else:
                    collection.store.drop()
            self._used, self._files, self._make = used, files, found._make

    def unused(self) -> list[tuple[str, str]]:
        """Return the names and files of the other collections."""
        with self._changing:
            return [*self._files.items()]

    def used(self) -> list[OpenCollection]:
        """Return the used collections; only they can have changes."""
        with self._changing:
            return list(self._used.values())

    def all(self) -> list[OpenCollection]:
        """Return all collections."""
        found = (self.get(name) for name in self.names())
        return [collection for collection in found if collection is not None]
