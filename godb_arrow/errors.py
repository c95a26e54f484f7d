"""Everything that godb_arrow raises, in one tree.

::

    GodbError
    ├── FormatError (ValueError)              the bytes are not a GODB file we can read
    │   ├── EmptyFile
    │   ├── TruncatedHeader
    │   ├── WrongMagic
    │   ├── UnsupportedVersion
    │   ├── UnsupportedFlags
    │   └── CorruptFile                       has ``offset`` and ``where``
    │       └── ChecksumMismatch
    ├── CollectionNotFound (KeyError)
    ├── DocumentNotFound (KeyError)
    ├── VersionNotFound (KeyError)            no such state of a collection, or not any more
    ├── CollectionRequired (ValueError)       several collections, none was named
    ├── SchemaError (ValueError)
    │   ├── TypeConflict (TypeError)          on_conflict="error"
    │   ├── TypeMismatch (TypeError)          a value does not fit a given schema
    │   ├── UnsupportedType (TypeError)       an Arrow type that documents cannot hold
    │   └── FieldNotFound (KeyError)
    ├── InvalidFilter (ValueError)
    ├── InvalidOption (ValueError)
    ├── InvalidDocument (ValueError)          a document that cannot be stored
    ├── DuplicateId (ValueError)              has ``ids``
    ├── CollectionExists (FileExistsError, ValueError)
    ├── InvalidCollectionName (ValueError)
    ├── InvalidCursor (ValueError)
    ├── LimitExceeded (ValueError)
    │   ├── DepthExceeded
    │   ├── DocumentTooLarge
    │   └── MemoryLimitExceeded (MemoryError)
    ├── EngineClosed (RuntimeError)
    ├── ForkedProcess (RuntimeError)          what the parent process opened is used after a fork
    ├── WorkerNotFound (KeyError)
    ├── StorageError (OSError)
    │   ├── SourceNotFound (FileNotFoundError)
    │   ├── AccessDenied (PermissionError)
    │   │   └── ReadOnly
    │   ├── DirectoryLocked (BlockingIOError)
    │   ├── TargetExists (FileExistsError)
    │   ├── WriteConflict                     somebody else wrote it meanwhile
    │   ├── ReplicationFailed                 done here, and not at a follower
    │   └── DiskFull
    └── MissingDependency (ImportError)

Each error also derives from the builtin that a Python programmer would catch.
What a floor does not know (the file's name, the collection) is filled in by the
floor that does, with :func:`error_context`; the traceback stays the original one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

__all__ = [
    "AccessDenied",
    "ChecksumMismatch",
    "CollectionExists",
    "CollectionNotFound",
    "CollectionRequired",
    "CorruptFile",
    "DepthExceeded",
    "DirectoryLocked",
    "DiskFull",
    "DocumentNotFound",
    "DocumentTooLarge",
    "DuplicateId",
    "EmptyFile",
    "EngineClosed",
    "FieldNotFound",
    "ForkedProcess",
    "FormatError",
    "GodbError",
    "InvalidCollectionName",
    "InvalidCursor",
    "InvalidDocument",
    "InvalidFilter",
    "InvalidOption",
    "LimitExceeded",
    "MemoryLimitExceeded",
    "MissingDependency",
    "ReadOnly",
    "ReplicationFailed",
    "SchemaError",
    "SourceNotFound",
    "StorageError",
    "TargetExists",
    "TruncatedHeader",
    "TypeConflict",
    "TypeMismatch",
    "UnsupportedFlags",
    "UnsupportedType",
    "UnsupportedVersion",
    "VersionNotFound",
    "WorkerNotFound",
    "WriteConflict",
    "WrongMagic",
    "error_context",
    "storage_errors",
]

Where = Literal["file", "body"]
Applied = Literal["no", "yes", "unknown"]


class GodbError(Exception):
    """The base of every error that godb_arrow raises.

    Parameters
    ----------
    message : str
        What is wrong, and what was expected.
    advice : str, optional
        What to do next.

    Attributes
    ----------
    operation : str or None
        What was being done, such as ``"read"``.
    source : str or None
        The file or URL.
    collection : str or None
        The collection.
    applied : {"no", "yes", "unknown"}
        Whether the change was applied that a verb was asked for. "no": memory, journal and files
        are as before. "yes": the change is done here and visible. "unknown": the change is visible
        here, and a power cut may undo it until the next successful save.

    Examples
    --------
    >>> import godb_arrow
    >>> try:
    ...     godb_arrow.read_table(b"not a database")
    ... except godb_arrow.GodbError as error:
    ...     print(type(error).__name__)
    WrongMagic
    """

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.operation: str | None = None
        self.source: str | None = None
        self.collection: str | None = None
        self.applied: Applied = "no"

    def _place(self) -> str:
        place = " ".join(part for part in (self.operation, self.source) if part)
        if self.collection is not None:
            place += f"{', ' if place else ''}collection {self.collection!r}"
        return place

    def __str__(self) -> str:
        place = self._place()
        text = f"{place}: {self.message}" if place else self.message
        return f"{text}; {self.advice}" if self.advice else text

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[GodbError], args: tuple[Any, ...], state: dict[str, Any]) -> GodbError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class FormatError(GodbError, ValueError):
    """The bytes are not a GODB file that this version reads."""


class EmptyFile(FormatError):
    """The file holds no byte at all."""


class TruncatedHeader(FormatError):
    """The file ends inside the eight bytes of the header."""


class WrongMagic(FormatError):
    """The file does not begin with ``GODB``."""


class UnsupportedVersion(FormatError):
    """The header names a format version other than 1."""


class UnsupportedFlags(FormatError):
    """The header has flags that this version does not know."""


class CorruptFile(FormatError):
    """The body is damaged.

    Attributes
    ----------
    offset : int
        Byte offset of the damage.
    where : {"file", "body"}
        Whether `offset` counts the bytes of the file, or those of the decompressed body.
    """

    def __init__(
        self, message: str, *, offset: int, where: Where = "body", advice: str | None = None
    ) -> None:
        super().__init__(
            message,
            advice=advice or "restore the file from a copy, or have it written again",
        )
        self.offset = offset
        self.where = where

    def _place(self) -> str:
        body = " of the decompressed body" if self.where == "body" else ""
        position = f"byte {self.offset}{body}"
        place = super()._place()
        return f"{place}, {position}" if place else position


class ChecksumMismatch(CorruptFile):
    """The bytes differ from those that were written."""


class CollectionNotFound(GodbError, KeyError):
    """The file has no collection of that name."""

    __str__ = GodbError.__str__


class DocumentNotFound(GodbError, KeyError):
    """The collection has no document of that id."""

    __str__ = GodbError.__str__


class VersionNotFound(GodbError, KeyError):
    """The collection has no such version, or not any more."""

    __str__ = GodbError.__str__


class CollectionRequired(GodbError, ValueError):
    """The file has several collections, or none, and no name was given."""


class CollectionExists(GodbError, FileExistsError, ValueError):
    """The collection is there already."""

    __str__ = GodbError.__str__


class InvalidCollectionName(GodbError, ValueError):
    """A collection cannot have that name."""


class InvalidCursor(GodbError, ValueError):
    """A cursor is not one that this program gave out."""


class EngineClosed(GodbError, RuntimeError):
    """The engine was closed before."""


class ForkedProcess(GodbError, RuntimeError):
    """An engine or a stream of the parent process is used in a forked child.

    A child shares files, journal and locks with its parent, so it must not use them. Open the
    directory again in the child with ``read_only=True``, or start processes by ``spawn``.
    """


class WorkerNotFound(GodbError, KeyError):
    """There is no background worker of that name."""

    __str__ = GodbError.__str__


class SchemaError(GodbError, ValueError):
    """Documents and schema do not go together."""


class TypeConflict(SchemaError, TypeError):
    """A field holds values that no single Arrow type can hold."""


class TypeMismatch(SchemaError, TypeError):
    """A value does not fit the schema that was asked for."""


class UnsupportedType(SchemaError, TypeError):
    """An Arrow type that documents cannot hold."""


class FieldNotFound(SchemaError, KeyError):
    """A column was asked for that the collection does not have."""

    __str__ = GodbError.__str__


class InvalidFilter(GodbError, ValueError):
    """The filter does not fit the collection's schema."""


class InvalidOption(GodbError, ValueError):
    """An option has a value that makes no sense."""


class InvalidDocument(GodbError, ValueError):
    """A document that cannot be stored."""


class DuplicateId(GodbError, ValueError):
    """Documents share an id.

    Attributes
    ----------
    ids : list of str
        The first of the ids that occur more than once.
    """

    def __init__(self, ids: Sequence[str], *, advice: str | None = None) -> None:
        shown = ", ".join(repr(name) for name in ids[:10])
        super().__init__(
            f"document ids occur more than once: {shown}",
            advice=advice or "give every document an id of its own",
        )
        self.ids = list(ids)


class LimitExceeded(GodbError, ValueError):
    """Something is larger than the caller allowed."""


class DepthExceeded(LimitExceeded):
    """A document nests deeper than 128 levels."""


class DocumentTooLarge(LimitExceeded):
    """A document has more bytes than ``max_document_bytes``."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """What was asked for does not fit into the memory that the engine may take."""


class StorageError(GodbError, OSError):
    """The file system or object store refused."""

    __str__ = GodbError.__str__


class SourceNotFound(StorageError, FileNotFoundError):
    """There is no such file."""


class AccessDenied(StorageError, PermissionError):
    """The file may not be read or written."""


class ReadOnly(AccessDenied):
    """The engine was opened to read only."""


class DirectoryLocked(StorageError, BlockingIOError):
    """Another process writes the data directory."""


class TargetExists(StorageError, FileExistsError):
    """What is to be written is there already."""


class WriteConflict(StorageError):
    """Somebody else wrote an object since it was read; nothing was written."""


class ReplicationFailed(StorageError):
    """A change is done here, but a follower that should have acknowledged it has not."""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.applied = "yes"


class DiskFull(StorageError):
    """No space is left for the file."""


class MissingDependency(GodbError, ImportError):
    """A package is needed that is not installed; the message names the extra."""


class error_context:  # noqa: N801 (used like contextlib's functions; a class is faster)
    """Fill in where an error of ours happened, for the floors that cannot know it.

    Parameters
    ----------
    operation, source, collection : str, optional
        What an error gets that does not have it yet.
    """

    __slots__ = ("_collection", "_operation", "_source")

    def __init__(
        self,
        operation: str | None = None,
        source: str | None = None,
        collection: str | None = None,
    ) -> None:
        self._operation = operation
        self._source = source
        self._collection = collection

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, GodbError):
            error.operation = error.operation or self._operation
            error.source = error.source or self._source
            if error.collection is None:
                error.collection = self._collection


_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def storage_errors(operation: str, source: str) -> Iterator[None]:
    """Turn an operating system's error into ours, keeping it as the cause."""
    try:
        yield
    except GodbError:
        raise
    except FileNotFoundError as error:
        raised: StorageError = SourceNotFound("there is no such file", advice="check the path")
        raise _placed(raised, error, operation, source) from error
    except PermissionError as error:
        raised = AccessDenied("permission denied", advice="check the file's owner and mode")
        raise _placed(raised, error, operation, source) from error
    except OSError as error:
        if error.errno in _DISK_FULL:
            raised = DiskFull("no space is left", advice="free some space and try again")
        else:
            raised = StorageError(str(error) or type(error).__name__)
        raise _placed(raised, error, operation, source) from error


def _placed(raised: StorageError, cause: OSError, operation: str, source: str) -> StorageError:
    raised.operation, raised.source, raised.errno = operation, source, cause.errno
    return raised
