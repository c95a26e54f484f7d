"""godb_arrow is an embedded document store that reads and writes documents as Arrow and DataFrames.

>>> import io, godb_arrow
>>> file = io.BytesIO()
>>> godb_arrow.write_godb([{"name": "Ada", "age": 36}, {"name": "Bob"}], file, "users")
2
>>> godb_arrow.read_table(file.getvalue(), "users").column("age").to_pylist()
[36, None]
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from godb_arrow._version import __version__
from godb_arrow.providers import provide

if TYPE_CHECKING:
    from godb_arrow.connectors.pandas import (
        read_godb,
    )
    from godb_arrow.engine.changes import (
        Change,
        ChangeFeed,
    )
    from godb_arrow.engine.checking import (
        inspect_godb,
        verify_godb,
    )
    from godb_arrow.engine.collection import (
        Collection,
    )
    from godb_arrow.engine.engine import (
        StorageEngine,
    )
    from godb_arrow.engine.health import (
        EngineHealth,
    )
    from godb_arrow.engine.info import (
        CollectionInfo,
        CollectionState,
    )
    from godb_arrow.engine.promotion import (
        promote,
    )
    from godb_arrow.engine.reading import (
        list_collections,
        open_godb,
        read_document,
        read_documents,
        read_schema,
        read_table,
        scan_godb,
    )
    from godb_arrow.engine.stats import (
        EngineStats,
        MemoryStats,
    )
    from godb_arrow.engine.transaction import (
        Transaction,
    )
    from godb_arrow.engine.updater import (
        UpdateResult,
    )
    from godb_arrow.engine.validation import (
        Validation,
    )
    from godb_arrow.errors import (
        AccessDenied,
        ChangesLost,
        ChecksumMismatch,
        CollectionExists,
        CollectionNotFound,
        CollectionRequired,
        CorruptFile,
        DepthExceeded,
        DirectoryLocked,
        DiskFull,
        DocumentNotFound,
        DocumentTooLarge,
        DuplicateId,
        DuplicateValue,
        EmptyFile,
        EngineClosed,
        FieldNotFound,
        ForkedProcess,
        FormatError,
        GodbError,
        InvalidCollectionName,
        InvalidCursor,
        InvalidDocument,
        InvalidFilter,
        InvalidOption,
        InvalidQuery,
        InvalidUpdate,
        LimitExceeded,
        MemoryLimitExceeded,
        MissingDependency,
        MissingValidator,
        ReadOnly,
        ReplicationFailed,
        SchemaError,
        SchemaViolation,
        SourceNotFound,
        StorageError,
        TargetExists,
        TransactionClosed,
        TransactionConflict,
        TruncatedHeader,
        TypeConflict,
        TypeMismatch,
        UnsupportedFlags,
        UnsupportedType,
        UnsupportedVersion,
        VersionNotFound,
        WorkerNotFound,
        WriteConflict,
        WrongMagic,
    )
    from godb_arrow.file.collection import (
        FileCollection,
    )
    from godb_arrow.file.explanation import (
        Explanation,
    )
    from godb_arrow.file.json_reading import (
        read_ndjson,
    )
    from godb_arrow.file.writing import (
        CompatibilityWarning,
        write_godb,
    )
    from godb_arrow.memory.lru import (
        LFU,
        LRU,
        TTL,
        EvictionPolicy,
        LRUCache,
    )
    from godb_arrow.options import (
        OptionWarning,
    )
    from godb_arrow.query.filters import (
        RowFilter,
    )
    from godb_arrow.query.joined import (
        JoinedCollection,
    )
    from godb_arrow.query.profile import (
        FieldProfile,
        Profile,
    )
    from godb_arrow.query.result import (
        QueryResult,
    )
    from godb_arrow.query.scannable import (
        Scannable,
    )
    from godb_arrow.replication.backup import (
        BackupInfo,
        list_backups,
        restore_backup,
    )
    from godb_arrow.replication.follower import (
        Follower,
    )
    from godb_arrow.replication.replica import (
        Replica,
    )
    from godb_arrow.replication.retention import (
        delete_backups,
    )
    from godb_arrow.replication.status import (
        FollowerStatus,
        follower_status,
    )
    from godb_arrow.snapshots.index_names import (
        IndexDefinition,
    )
    from godb_arrow.snapshots.pages import (
        Page,
    )
    from godb_arrow.snapshots.versions import (
        CollectionVersion,
        VersionInfo,
    )

__all__ = [
    "LFU",
    "LRU",
    "TTL",
    "AccessDenied",
    "BackupInfo",
    "Change",
    "ChangeFeed",
    "ChangesLost",
    "ChecksumMismatch",
    "Collection",
    "CollectionExists",
    "CollectionInfo",
    "CollectionNotFound",
    "CollectionRequired",
    "CollectionState",
    "CollectionVersion",
    "CompatibilityWarning",
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
    "EngineHealth",
    "EngineStats",
    "EvictionPolicy",
    "Explanation",
    "FieldNotFound",
    "FieldProfile",
    "FileCollection",
    "Follower",
    "FollowerStatus",
    "ForkedProcess",
    "FormatError",
    "GodbError",
    "IndexDefinition",
    "InvalidCollectionName",
    "InvalidCursor",
    "InvalidDocument",
    "InvalidFilter",
    "InvalidOption",
    "InvalidQuery",
    "InvalidUpdate",
    "JoinedCollection",
    "LRUCache",
    "LimitExceeded",
    "MemoryLimitExceeded",
    "MemoryStats",
    "MissingDependency",
    "MissingValidator",
    "OptionWarning",
    "Page",
    "Profile",
    "QueryResult",
    "ReadOnly",
    "Replica",
    "ReplicationFailed",
    "RowFilter",
    "Scannable",
    "SchemaError",
    "SchemaViolation",
    "SourceNotFound",
    "StorageEngine",
    "StorageError",
    "TargetExists",
    "Transaction",
    "TransactionClosed",
    "TransactionConflict",
    "TruncatedHeader",
    "TypeConflict",
    "TypeMismatch",
    "UnsupportedFlags",
    "UnsupportedType",
    "UnsupportedVersion",
    "UpdateResult",
    "Validation",
    "VersionInfo",
    "VersionNotFound",
    "WorkerNotFound",
    "WriteConflict",
    "WrongMagic",
    "__version__",
    "delete_backups",
    "follower_status",
    "inspect_godb",
    "list_backups",
    "list_collections",
    "open_godb",
    "promote",
    "read_document",
    "read_documents",
    "read_godb",
    "read_ndjson",
    "read_schema",
    "read_table",
    "restore_backup",
    "scan_godb",
    "verify_godb",
    "write_godb",
]

# Names are imported at first use, so that importing the package stays fast.
_NAMES = {
    "godb_arrow.connectors.pandas": ("read_godb",),
    "godb_arrow.engine.checking": ("inspect_godb", "verify_godb"),
    "godb_arrow.engine.changes": (
        "Change",
        "ChangeFeed",
    ),
    "godb_arrow.engine.collection": ("Collection",),
    "godb_arrow.engine.engine": ("StorageEngine",),
    "godb_arrow.engine.health": ("EngineHealth",),
    "godb_arrow.engine.info": (
        "CollectionInfo",
        "CollectionState",
    ),
    "godb_arrow.engine.promotion": ("promote",),
    "godb_arrow.engine.reading": (
        "list_collections",
        "open_godb",
        "read_document",
        "read_documents",
        "read_schema",
        "read_table",
        "scan_godb",
    ),
    "godb_arrow.engine.stats": (
        "EngineStats",
        "MemoryStats",
    ),
    "godb_arrow.engine.transaction": ("Transaction",),
    "godb_arrow.engine.updater": ("UpdateResult",),
    "godb_arrow.engine.validation": ("Validation",),
    "godb_arrow.errors": (
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
    ),
    "godb_arrow.file.collection": ("FileCollection",),
    "godb_arrow.file.explanation": ("Explanation",),
    "godb_arrow.file.json_reading": ("read_ndjson",),
    "godb_arrow.file.writing": (
        "CompatibilityWarning",
        "write_godb",
    ),
    "godb_arrow.memory.lru": (
        "LFU",
        "LRU",
        "TTL",
        "EvictionPolicy",
        "LRUCache",
    ),
    "godb_arrow.options": ("OptionWarning",),
    "godb_arrow.query.filters": ("RowFilter",),
    "godb_arrow.query.joined": ("JoinedCollection",),
    "godb_arrow.query.profile": (
        "FieldProfile",
        "Profile",
    ),
    "godb_arrow.query.result": ("QueryResult",),
    "godb_arrow.query.scannable": ("Scannable",),
    "godb_arrow.replication.backup": (
        "BackupInfo",
        "list_backups",
        "restore_backup",
    ),
    "godb_arrow.replication.follower": ("Follower",),
    "godb_arrow.replication.replica": ("Replica",),
    "godb_arrow.replication.retention": ("delete_backups",),
    "godb_arrow.replication.status": (
        "FollowerStatus",
        "follower_status",
    ),
    "godb_arrow.snapshots.index_names": ("IndexDefinition",),
    "godb_arrow.snapshots.pages": ("Page",),
    "godb_arrow.snapshots.versions": (
        "CollectionVersion",
        "VersionInfo",
    ),
}
_SUBPACKAGES = frozenset({"codec", "connectors", "errors", "samples"})
_MODULE_OF_NAME = {name: module for module, names in _NAMES.items() for name in names}

provide("sql", "godb_arrow.connectors.duckdb_queries")

logging.getLogger("godb_arrow").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    module = _MODULE_OF_NAME.get(name)
    if module is not None:
        value = getattr(importlib.import_module(module), name)
    elif name in _SUBPACKAGES:
        value = importlib.import_module(f"godb_arrow.{name}")
    else:
        raise AttributeError(f"module 'godb_arrow' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return sorted(__all__)
