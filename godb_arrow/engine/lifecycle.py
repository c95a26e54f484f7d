"""Lifecycle of an engine: open, closing, closed, or inherited by a forked child."""

from __future__ import annotations

from godb_arrow.errors import CollectionNotFound, EngineClosed, ForkedProcess, ReadOnly

__all__ = ["Lifecycle", "dropped_error"]


class Lifecycle:
    """State of an engine, with the checks that its verbs begin with.

    Parameters
    ----------
    path : str
        Data directory, for messages.
    read_only : bool
        Whether the engine only reads.

    Attributes
    ----------
    is_closed : bool
        Whether the engine is closed, or not open yet. True until the engine is open.
    is_closing : bool
        Whether the engine is being closed, default False.
    is_forked : bool
        Whether this process is a forked child of the process that opened the engine.
    """

    __slots__ = ("_path", "_read_only", "is_closed", "is_closing", "is_forked")

    def __init__(self, path: str, *, read_only: bool) -> None:
        self._path = path
        self._read_only = read_only
        self.is_closed = True
        self.is_closing = self.is_forked = False

    def check_process(self) -> None:
        """Raise in a forked child of the process that opened the engine.

        Raises
        ------
        ForkedProcess
        """
        if self.is_forked:
            raise ForkedProcess(
                f"the engine of {self._path} belongs to the parent process",
                advice="open the directory here with read_only=True, or start processes by spawn",
            )

    def check_open(self) -> None:
        """Raise unless the engine is open.

        Raises
        ------
        EngineClosed, ForkedProcess
        """
        if self.is_forked or self.is_closed or self.is_closing:
            self.check_process()
            raise EngineClosed(
                f"the engine of {self._path} was closed", advice="open another engine"
            )

    def check_writable(self) -> None:
        """Raise unless the engine is open and may write.

        Raises
        ------
        EngineClosed, ForkedProcess, ReadOnly
        """
        if self.is_forked or self.is_closed or self.is_closing or self._read_only:
            self.check_open()
            raise ReadOnly("the engine is read-only", advice="open it without read_only=True")


def dropped_error(name: str, read_only: bool) -> CollectionNotFound:
    """Return the error for a handle of a dropped collection."""
    if read_only:
        return CollectionNotFound(
            f"another process dropped or renamed the collection {name!r}",
            advice="see collections() for the names",
        )
    return CollectionNotFound(f"the collection {name!r} was dropped", advice="create it again")
