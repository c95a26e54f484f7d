"""The collections of an engine by name; each is made when it is first asked for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from godb_arrow.directory.names import stem
from godb_arrow.engine.collection import Collection

__all__ = ["Catalog"]


class Catalog:
    """The collections by name.

    Those that have a file and were not asked for yet are a name and a path: ten thousand of them
    take a few MiB.

    Parameters
    ----------
    files : mapping of str to str
        The collections that have a file, and its path.
    make : callable
        Makes a collection of a name and a path.
    """

    def __init__(self, files: Mapping[str, str], make: Callable[[str, str], Collection]) -> None:
        self._files = dict(files)
        self._make = make
        self._made: dict[str, Collection] = {}
        self._stems: dict[str, Collection] = {}  # the same ones, by the stem of their files
        self._lock = threading.Lock()

    def get(self, name: str) -> Collection | None:
        """The collection of a name, or None."""
        found = self._made.get(name)
        if found is None and name in self._files:
            with self._lock:
                found = self._made.get(name)
                if found is None and name in self._files:
                    found = self[name] = self._make(name, self._files[name])
                    del self._files[name]
        return found

    def of_stem(self, stem: str | None) -> Collection | None:
        """Return the collection whose files have a stem, unless it was not asked for yet."""
        return None if stem is None else self._stems.get(stem)

    def __setitem__(self, name: str, collection: Collection) -> None:
        self._made[name] = self._stems[stem(name)] = collection

    def __delitem__(self, name: str) -> None:
        del self._made[name], self._stems[stem(name)]

    def discard(self, name: str) -> None:
        """Forget a collection, if there is one of that name."""
        self._made.pop(name, None)
        self._stems.pop(stem(name), None)

    def __contains__(self, name: object) -> bool:
        return name in self._made or name in self._files

    def __len__(self) -> int:
        return len(self._made) + len(self._files)

    def names(self) -> list[str]:
        """The names, sorted."""
        with self._lock:
            return sorted({*self._made, *self._files})

    def update(self, found: Catalog) -> None:
        """Have the names of another catalog, which was made later.

        A collection that was asked for stays the same object. One that the other catalog does
        not have is dropped, unless it was read: then it stays as it was read.

        Parameters
        ----------
        found : Catalog
            What another process has in the directory now.
        """
        with self._lock:
            files, made = dict(found._files), dict(found._made)
            for name, collection in self._made.items():
                if name in found or collection.was_read:
                    made[name] = collection
                    files.pop(name, None)
                else:
                    collection.mark_dropped()
            self._made, self._files = made, files

    def made(self) -> list[Collection]:
        """The collections that were asked for; no other has changed."""
        with self._lock:
            return list(self._made.values())

    def all(self) -> list[Collection]:
        """All collections."""
        found = (self.get(name) for name in self.names())
        return [collection for collection in found if collection is not None]
