"""Errors that godb_arrow raises, in one tree.

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
    ├── ChangesLost (LookupError)             the changes after a token cannot be listed
    ├── CollectionRequired (ValueError)       several collections, none was named
    ├── SchemaError (ValueError)
    │   ├── TypeConflict (TypeError)          on_conflict="error"
    │   ├── TypeMismatch (TypeError)          a value does not fit a given schema
    │   ├── UnsupportedType (TypeError)       an Arrow type that documents cannot hold
    │   └── FieldNotFound (KeyError)
    ├── InvalidFilter (ValueError)
    ├── InvalidQuery (ValueError)             SQL that DuckDB refuses
    ├── InvalidOption (ValueError)
    ├── InvalidDocument (ValueError)          a document that cannot be stored
    │   └── SchemaViolation                   of the validation; has ``id``, ``path``, ``problem``
    ├── MissingValidator (RuntimeError)       a model that must be given again
    ├── InvalidUpdate (ValueError)            operators that cannot change a document
    ├── DuplicateId (ValueError)              has ``ids``
    ├── DuplicateValue (ValueError)           of a unique index; has ``fields``, ``value``, ``ids``
    ├── CollectionExists (FileExistsError, ValueError)
    ├── InvalidCollectionName (ValueError)
    ├── InvalidCursor (ValueError)
    ├── LimitExceeded (ValueError)
    │   ├── DepthExceeded
    │   ├── DocumentTooLarge
    │   └── MemoryLimitExceeded (MemoryError)
    ├── EngineClosed (RuntimeError)
    ├── ForkedProcess (RuntimeError)          what the parent process opened is used after a fork
    ├── TransactionClosed (RuntimeError)
    ├── TransactionConflict (RuntimeError)    has ``ids``; another writer changed them first
    ├── WorkerNotFound (KeyError)
    ├── StorageError (OSError)
    │   ├── SourceNotFound (FileNotFoundError)
    │   ├── AccessDenied (PermissionError)
    │   │   └── ReadOnly
    │   ├── DirectoryLocked (BlockingIOError)
    │   ├── TargetExists (FileExistsError)
    │   ├── WriteConflict                     another process wrote the object since it was read
    │   ├── ReplicationFailed                 applied here, but not acknowledged by a follower
    │   └── DiskFull
    └── MissingDependency (ImportError)

Each error also derives from the builtin that a Python programmer would catch. Low-level code
does not know the file and collection. Its callers add them with :func:`error_context`, and the
traceback stays the original one.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any, Literal

from godb_arrow.display import without_secrets

__all__ = [
    "AccessDenied",
    "ChangesLost",
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
    "DuplicateValue",
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
    "InvalidQuery",
    "InvalidUpdate",
    "LimitExceeded",
    "MemoryLimitExceeded",
    "MissingDependency",
    "MissingValidator",
    "ReadOnly",
    "ReplicationFailed",
    "SchemaError",
    "SchemaViolation",
    "SourceNotFound",
    "StorageError",
    "TargetExists",
    "TransactionClosed",
    "TransactionConflict",
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
    "document_not_found",
    "error_context",
    "storage_errors",
]

_SHOWN_IDS = 10
_SHOWN_VALUE = 100  # characters

Where = Literal["file", "body"]
Applied = Literal["no", "yes", "unknown"]

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class GodbError(Exception):
    """Base class of every error that godb_arrow raises.

    Parameters
    ----------
    message : str
        What is wrong, and what was expected.
    advice : str, optional
        What to do next.

    Attributes
    ----------
    operation : str or None
        Name of the operation, such as ``"read"``.
    source : str or None
        File or URL.
    collection : str or None
        Name of the collection.
    applied : {"no", "yes", "unknown"}
        Whether the requested change was applied. With "no", memory, journal and files are
        unchanged. With "yes", the change is applied here and visible. With "unknown", the change
        is visible here, but a power cut may undo it until the next successful save.

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
        return without_secrets(f"{text}; {self.advice}" if self.advice else text)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(kind: type[GodbError], args: tuple[Any, ...], state: dict[str, Any]) -> GodbError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class FormatError(GodbError, ValueError):
    """Input is not a GODB file that this version reads."""


class EmptyFile(FormatError):
    """File is empty."""


class TruncatedHeader(FormatError):
    """File ends inside the eight bytes of the header."""


class WrongMagic(FormatError):
    """File does not begin with ``GODB``."""


class UnsupportedVersion(FormatError):
    """Header names a format version other than 1."""


class UnsupportedFlags(FormatError):
    """Header has flags that this version does not know."""


class CorruptFile(FormatError):
    """Body of the file is damaged.

    Attributes
    ----------
    offset : int
        Byte offset of the damage.
    where : {"file", "body"}
        Whether `offset` counts bytes of the file or of the decompressed body.
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
    """Checksum of the bytes differs from the one recorded when they were written."""


class CollectionNotFound(GodbError, KeyError):
    """File has no collection of that name."""

    __str__ = GodbError.__str__


class DocumentNotFound(GodbError, KeyError):
    """Collection has no document with that id."""

    __str__ = GodbError.__str__


def document_not_found(
    identity: str, *, advice: str = "document ids are strings, such as '1'"
) -> DocumentNotFound:
    """Return the error for a document id that does not exist."""
    return DocumentNotFound(f"there is no document {identity!r}", advice=advice)


class ChangesLost(GodbError, LookupError):
    """Changes after a token were removed, or cannot be listed; a snapshot has their result."""


class VersionNotFound(GodbError, KeyError):
    """Collection has no such version, or the version was dropped."""

    __str__ = GodbError.__str__


class CollectionRequired(GodbError, ValueError):
    """File has no collection or several, and no name was given."""


class CollectionExists(GodbError, FileExistsError, ValueError):
    """Collection of that name already exists."""

    __str__ = GodbError.__str__


class InvalidCollectionName(GodbError, ValueError):
    """Name that a collection cannot have."""


class InvalidCursor(GodbError, ValueError):
    """Cursor that this program did not issue."""


class EngineClosed(GodbError, RuntimeError):
    """Engine is already closed."""


class ForkedProcess(GodbError, RuntimeError):
    """Engine or stream of the parent process is used in a forked child.

    A child shares files, journal and locks with its parent, so it must not use them. Open the
    directory again in the child with ``read_only=True``, or start processes by ``spawn``.
    """


class TransactionClosed(GodbError, RuntimeError):
    """Transaction that ended, or cannot begin."""


class TransactionConflict(GodbError, RuntimeError):
    """Another writer changed a document of the transaction first. Nothing was changed.

    Attributes
    ----------
    ids : list of str
        Ids of such documents.
    """

    def __init__(self, message: str, ids: Sequence[str] = (), *, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.ids = list(ids)


class WorkerNotFound(GodbError, KeyError):
    """Background worker of that name does not exist."""

    __str__ = GodbError.__str__


class SchemaError(GodbError, ValueError):
    """Documents and schema do not fit each other."""


class TypeConflict(SchemaError, TypeError):
    """Field with values that no single Arrow type can hold."""


class TypeMismatch(SchemaError, TypeError):
    """Value that does not fit the requested schema."""


class UnsupportedType(SchemaError, TypeError):
    """Arrow type that documents cannot hold."""


class FieldNotFound(SchemaError, KeyError):
    """Requested column does not exist in the collection."""

    __str__ = GodbError.__str__


class InvalidFilter(GodbError, ValueError):
    """Filter that does not fit the collection's schema."""


class InvalidQuery(GodbError, ValueError):
    """SQL that DuckDB refuses, or an aggregation that a field does not allow."""


class InvalidOption(GodbError, ValueError):
    """Option whose value is out of range."""


class InvalidDocument(GodbError, ValueError):
    """Document that cannot be stored."""


class SchemaViolation(InvalidDocument):
    """Document that does not fit the validation of its collection. Nothing was changed.

    Attributes
    ----------
    id : str
        Document id.
    path : str
        Path to the value, such as ``address.zip`` or ``tags[2]``; empty for the whole document.
    problem : str
        What is wrong.
    """

    def __init__(self, identity: str, path: str, problem: str) -> None:
        place = f"{path}: " if path else ""
        super().__init__(
            f"document {identity!r}: {place}{problem}",
            advice="change the document, or the validation of the collection",
        )
        self.id, self.path, self.problem = identity, path, problem


class MissingValidator(GodbError, RuntimeError):
    """Model that validates documents, and is not stored, was not given again."""


class InvalidUpdate(GodbError, ValueError):
    """Update operator that does not exist, or that a document's value does not allow."""


class DuplicateId(GodbError, ValueError):
    """Documents share an id.

    Attributes
    ----------
    ids : list of str
        First ids that occur more than once.
    """

    def __init__(self, ids: Sequence[str], *, advice: str | None = None) -> None:
        self.ids = list(ids[:_SHOWN_IDS])
        shown = ", ".join(map(repr, self.ids))
        super().__init__(
            f"document ids occur more than once: {shown}",
            advice=advice or "give every document an id of its own",
        )


class DuplicateValue(GodbError, ValueError):
    """Documents share a value of a unique index. Nothing was changed.

    Attributes
    ----------
    fields : tuple of str
        Fields of the index.
    value : object
        The value, as documents are read; a tuple for a compound index.
    ids : list of str
        Ids of such documents. The first one keeps the value.
    """

    def __init__(
        self, fields: Sequence[str], value: Any, ids: Sequence[str], *, advice: str | None = None
    ) -> None:
        self.fields = tuple(fields)
        self.value = value
        self.ids = list(ids[:_SHOWN_IDS])
        shown = repr(value)
        if len(shown) > _SHOWN_VALUE:
            shown = shown[:_SHOWN_VALUE] + "…"
        first, *others = map(repr, self.ids)
        super().__init__(
            f"the unique index of {', '.join(map(repr, self.fields))} has {shown} "
            f"in document {first} and in {', '.join(others)}",
            advice=advice or "change a document, or drop the index",
        )


class LimitExceeded(GodbError, ValueError):
    """Limit set by the caller is exceeded."""


class DepthExceeded(LimitExceeded):
    """Document is nested deeper than 128 levels."""


class DocumentTooLarge(LimitExceeded):
    """Document has more bytes than ``max_document_bytes``."""


class MemoryLimitExceeded(LimitExceeded, MemoryError):
    """Request does not fit into the engine's memory limit."""


class StorageError(GodbError, OSError):
    """Operation that the file system or object store refused."""

    __str__ = GodbError.__str__


class SourceNotFound(StorageError, FileNotFoundError):
    """File does not exist."""


class AccessDenied(StorageError, PermissionError):
    """Permission to read or write the file is missing."""


class ReadOnly(AccessDenied):
    """Engine is read-only."""


class DirectoryLocked(StorageError, BlockingIOError):
    """Data directory is locked by another process that writes it."""


class TargetExists(StorageError, FileExistsError):
    """Target already exists."""


class WriteConflict(StorageError):
    """Object was changed by another process since it was read; nothing was written."""


class ReplicationFailed(StorageError):
    """Change is applied here, but a follower has not acknowledged it."""

    def __init__(self, message: str, *, advice: str | None = None) -> None:
        super().__init__(message, advice=advice)
        self.applied = "yes"


class DiskFull(StorageError):
    """Disk has no space left for the file."""


class MissingDependency(GodbError, ImportError):
    """Package that is not installed; the message names the extra that provides it."""


class error_context:  # noqa: N801 (used like contextlib's functions; a class is faster)
    """Add the operation, source and collection to errors of godb_arrow that pass through.

    Parameters
    ----------
    operation, source, collection : str, optional
        Value to set where the error does not have one yet.
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
            error.source = error.source or self._source
            place_error(error, self._operation, self._collection)


def place_error(error: GodbError, operation: str | None, collection: str | None) -> None:
    """Set the operation and the collection of an error that has none yet."""
    error.operation = error.operation or operation
    if error.collection is None:
        error.collection = collection


class storage_errors:  # noqa: N801 (used like contextlib's functions; a class is faster)
    """Translate an operating system's error into a StorageError, keeping it as the cause.

    Parameters
    ----------
    operation, source : str
        Operation and file of the error.
    """

    __slots__ = ("_operation", "_source")

    def __init__(self, operation: str, source: str) -> None:
        self._operation = operation
        self._source = source

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, OSError) and not isinstance(error, GodbError):
            raise storage_error(error, self._operation, self._source) from error


def storage_error(error: OSError, operation: str, source: str) -> StorageError:
    """Return the error of godb_arrow for an error of the operating system."""
    if isinstance(error, FileNotFoundError):
        raised: StorageError = SourceNotFound("the file does not exist", advice="check the path")
    elif isinstance(error, PermissionError):
        raised = AccessDenied("permission denied", advice="check the file's owner and mode")
    elif error.errno in _DISK_FULL:
        raised = DiskFull("no space is left", advice="free some space and try again")
    else:
        raised = StorageError(str(error) or type(error).__name__)
    raised.operation, raised.source, raised.errno = operation, source, error.errno
    return raised
