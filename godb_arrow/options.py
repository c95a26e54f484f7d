"""Limits and choices for reading and writing, checked once where they enter."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict, get_args

from godb_arrow.errors import InvalidOption
from godb_arrow.extensions import extension_names, unknown_name

__all__ = [
    "COMPRESSIONS",
    "COMPRESSION_GROUP",
    "DEFAULT_DOCUMENT_BYTES",
    "DEFAULT_KEPT_BYTES",
    "MAX_DEPTH",
    "MAX_DOCUMENT_BYTES",
    "CompressionName",
    "Durability",
    "EngineOptions",
    "IfExists",
    "OnConflict",
    "OnMismatch",
    "OptionWarning",
    "ReadKeywords",
    "ReadOptions",
    "VersionedCollections",
    "check_document_limit",
    "check_flags",
    "check_if_exists",
    "parse_duration",
    "parse_lifetime",
    "parse_size",
    "split_compression",
]

OnConflict = Literal["json", "error"]
OnMismatch = Literal["error", "null"]

MAX_DEPTH = 128
"""Maximum nesting of maps and arrays in a document, which is itself the first level."""

DEFAULT_KEPT_BYTES = 64 << 20
"""Maximum bytes of changes that are kept after they left the journal."""

DEFAULT_DOCUMENT_BYTES = 64 << 20
"""Maximum MessagePack bytes of a document with its id, unless an option says otherwise."""

MAX_DOCUMENT_BYTES = 1 << 30
"""Highest value of ``max_document_bytes`` for writing, which copies and ``verify`` can read."""


def _named(units: Mapping[str, float]) -> dict[str, float]:
    """Return units by each of their names, which are separated by spaces."""
    return {name: size for names, size in units.items() for name in names.split()}


_SIZE_UNITS = {"": 1.0} | _named(
    {
        "b byte bytes": 1,
        "k kb kilobyte kilobytes": 10**3,
        "m mb megabyte megabytes": 10**6,
        "g gb gigabyte gigabytes": 10**9,
        "t tb terabyte terabytes": 10**12,
        "ki kib": 2**10,
        "mi mib": 2**20,
        "gi gib": 2**30,
        "ti tib": 2**40,
    }
)
_TIME_UNITS = {"": 1.0} | _named(
    {
        "ms millisecond milliseconds": 0.001,
        "s sec secs second seconds": 1,
        "m min mins minute minutes": 60,
        "h hr hrs hour hours": 3600,
        "d day days": 86400,
        "w week weeks": 7 * 86400,
    }
)
_SYNCED_NAMES = frozenset({"fsync", "sync", "synced", "always", "full"})
"""Names that other databases have for the durability "commit"."""

_MAX_COUNT = (1 << 63) - 1
_MIN_MEMORY_BYTES = 1 << 20
_MIN_PART_BYTES = 1 << 10
_MIN_DOCUMENT_BYTES = 1 << 10
_MAX_SECONDS = 366 * 86400
_MAX_LIFETIME_SECONDS = 1000 * _MAX_SECONDS

Durability = Literal["commit", "interval", "checkpoint"]
VersionedCollections = Literal["large", "all"]
CompressionName: TypeAlias = str
"""Name of a compression, built-in or of another package, perhaps with a level as in "zstd:19"."""

COMPRESSIONS = ("lz4", "lz4hc", "zstd", "none")
"""Built-in compressions."""

_MIN_COMPRESSION_LEVEL = 1
MAX_COMPRESSION_LEVEL = {"lz4hc": 12, "zstd": 22}
"""Highest level of each built-in compression that has levels."""

COMPRESSION_GROUP = "godb_arrow.compressions"
"""Group of entry points of compressions."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """Options for reading documents as record batches.

    Parameters
    ----------
    batch_size : int
        Maximum number of documents in a record batch.
    batch_bytes : int
        Maximum MessagePack bytes in a record batch. A larger document has a batch of its own.
    max_document_bytes : int
        Maximum MessagePack bytes of a document with its id, default 64 MiB. A larger document is
        refused before memory is reserved for it.
    on_conflict : {"json", "error"}
        Treatment of a field whose values no single Arrow type can hold. "json" reads it as JSON
        text, "error" raises :class:`~godb_arrow.TypeConflict`.
    on_mismatch : {"error", "null"}
        Treatment of a value that does not fit the caller's schema.
    sample : int or None
        Number of documents from which the schema is inferred; None reads all.
    use_hints : bool
        Whether to trust the schema recorded in a file that is unchanged since.
    threads : int or None
        Number of threads that decompress and decode; None uses one per core. Small files are
        read without threads.

    Raises
    ------
    InvalidOption
        An option is out of range.

    Examples
    --------
    >>> from godb_arrow.options import ReadOptions
    >>> ReadOptions(batch_size=1000).batch_size
    1000
    """

    batch_size: int = 65_536
    batch_bytes: int = 4 << 20
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES
    on_conflict: OnConflict = "json"
    on_mismatch: OnMismatch = "error"
    sample: int | None = None
    use_hints: bool = True
    threads: int | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "batch_bytes", "max_document_bytes"):
            _check_count(name, getattr(self, name))
        for name in ("sample", "threads"):
            if getattr(self, name) is not None:
                _check_count(name, getattr(self, name))
        _check_choice("on_conflict", self.on_conflict, ("json", "error"))
        _check_choice("on_mismatch", self.on_mismatch, ("error", "null"))


IfExists = Literal["error", "append", "replace", "upsert"]
"""Action of a writer whose target exists.

The parameter is ``if_exists``, as in pandas and Polars, and so are "append" and "replace". An error
is "error" as in ``on_conflict`` and ``on_mismatch``, and as in Arrow and Delta Lake. "upsert"
replaces documents with the same ids and appends the others.
"""


def check_if_exists(value: str, choices: Sequence[str] = get_args(IfExists)) -> None:
    """Raise InvalidOption unless a value of ``if_exists`` is one of the choices."""
    if value not in choices:
        raise InvalidOption(f"if_exists is {value!r}", advice=f"use one of {', '.join(choices)}")


class ReadKeywords(TypedDict, total=False):
    """Keyword arguments of the reading functions: the fields of :class:`ReadOptions`."""

    batch_size: int
    batch_bytes: int
    max_document_bytes: int
    on_conflict: OnConflict
    on_mismatch: OnMismatch
    sample: int | None
    use_hints: bool
    threads: int | None


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InvalidOption(f"{name} is {value!r}", advice="give an integer of at least 1")
    if value > _MAX_COUNT:
        raise InvalidOption(f"{name} is {value!r}", advice="give an integer below 2**63")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(f"{name} is {value!r}", advice=f"use one of {', '.join(choices)}")


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """Options of a :class:`~godb_arrow.StorageEngine`.

    Parameters
    ----------
    max_memory : int
        Memory limit in bytes for cached views, unsaved documents, streams and inserts together.
    background_save : float or None
        Seconds between two background saves. None saves only at memory pressure, in ``save`` and
        in ``close``.
    durability : {"commit", "interval", "checkpoint"}
        Guarantee of an acknowledged write. With "commit", it survives a power cut. With
        "interval", it survives a crash of the process, and a power cut after the next sync. With
        "checkpoint", it survives neither until it is saved.
    sync_interval : float
        Seconds between two syncs of the journal, with ``durability="interval"``.
    threads : int or None
        Number of threads of a stream; None uses one per core.
    part_size : int
        Maximum decompressed bytes of documents in a part file. A larger collection has several.
    keep_versions : int
        Number of saved versions of a collection with several part files that stay readable.
    versions : {"large", "all"}
        Collections that keep versions: those above `part_size`, or all of them.
    keep_changes : int
        Maximum bytes of the segments that left the journal, and are kept for readers of changes.
    keep_changes_for : float or None
        Maximum age of these segments in seconds; None limits only their bytes.
    part_grace : float
        Seconds for which part files are kept after the last version that needs them is dropped.
        Readers in other processes may still use them.
    compression : str
        Compression of the files of new collections: "lz4", "lz4hc", "zstd", "none", or the name of
        one that another package adds. A level follows after a colon, as in "zstd:19".
    max_document_bytes : int
        Maximum MessagePack bytes of a document with its id, for writing and reading alike.

    Examples
    --------
    >>> EngineOptions.checked(max_memory="64MB", background_save="5min").max_memory
    64000000
    """

    max_memory: int = 1_000_000_000
    background_save: float | None = None
    durability: Durability = "interval"
    sync_interval: float = 1.0
    threads: int | None = None
    part_size: int = 128 << 20
    keep_versions: int = 5
    versions: VersionedCollections = "large"
    keep_changes: int = DEFAULT_KEPT_BYTES
    keep_changes_for: float | None = None
    part_grace: float = 600.0
    compression: CompressionName = "lz4"
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES

    @classmethod
    def checked(cls, **given: Any) -> EngineOptions:
        """Create options from user input, replacing invalid values by defaults with a warning.

        Parameters
        ----------
        **given
            Fields of this class. Sizes are numbers of bytes or text such as ``"1GB"``. Times are
            seconds, ``timedelta`` or text such as ``"5min"``.

        Returns
        -------
        EngineOptions

        Raises
        ------
        InvalidOption
            The durability is not understood. A weaker one would lose changes without a word.

        Warns
        -----
        OptionWarning
            An option is invalid. The message names it, its value and the default.
        """
        good: dict[str, Any] = {}
        for name, value in given.items():
            default = cls.__dataclass_fields__[name].default
            try:
                good[name] = _ENGINE_PARSERS[name](name, value)
            except InvalidOption as error:
                if name == "durability":  # No default is as strong as what the caller meant.
                    raise
                warnings.warn(
                    f"{error}; using the default, {default!r}", OptionWarning, stacklevel=4
                )
        return cls(**good)


class OptionWarning(UserWarning):
    """Option is invalid; its default is used."""


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in units:
        return None
    return float(match[1].replace("_", "")) * units[match[2]]


def parse_size(name: str, value: object, minimum: int = _MIN_MEMORY_BYTES) -> int:
    """Convert a size, a number of bytes or text such as ``"512MB"`` or ``"1GiB"``, to bytes."""
    size = _quantity(value, _SIZE_UNITS) if isinstance(value, str) else value
    if (
        isinstance(size, bool)
        or not isinstance(size, (int, float))
        or not minimum <= size <= _MAX_COUNT
    ):
        raise InvalidOption(
            f"{name} is {value!r}",
            advice=f"give at least {minimum >> 10} KiB, in bytes or text such as '1GB'",
        )
    return int(size)


def parse_duration(name: str, value: object) -> float:
    """Convert a duration, a number, a timedelta or text such as ``"5min"``, to seconds."""
    return _parse_seconds(name, value, 0.001, _MAX_SECONDS, "5min")


def parse_lifetime(name: str, value: object) -> float:
    """Convert a lifetime of documents, which may be 0, to seconds; see :func:`parse_duration`."""
    return _parse_seconds(name, value, 0, _MAX_LIFETIME_SECONDS, "30 days")


def _parse_seconds(name: str, value: object, low: float, high: float, example: str) -> float:
    seconds: object = value
    if isinstance(value, str):
        seconds = _quantity(value, _TIME_UNITS)
    elif isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not low <= seconds <= high
    ):
        raise InvalidOption(
            f"{name} is {value!r}", advice=f"give seconds, a timedelta, or text such as {example!r}"
        )
    return float(seconds)


def _optional(parse: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None or value is False else parse(name, value)


def _parse_part_size(name: str, value: object) -> object:
    return parse_size(name, value, _MIN_PART_BYTES)


def check_document_limit(name: str, value: object) -> int:
    """Return the limit of a document's size, in bytes.

    Raises
    ------
    InvalidOption
        No file of ours could be copied or verified with it.
    """
    size = parse_size(name, value, _MIN_DOCUMENT_BYTES)
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidOption(f"{name} is {value!r}", advice="give at most 1 GiB")
    return size


def _parse_durability(name: str, value: object) -> object:
    text = value.strip().lower() if isinstance(value, str) else value
    if text in _SYNCED_NAMES:
        return "commit"
    if text not in get_args(Durability):
        raise InvalidOption(
            f"{name} is {value!r}",
            advice='use "commit" (each change is synced), "interval" (synced every sync_interval), '
            'or "checkpoint" (only saved changes survive)',
        )
    return text


def _parse_compression(name: str, value: object) -> object:
    chosen, level = split_compression(name, value)
    return chosen if level is None else f"{chosen}:{level}"


def split_compression(option: str, value: object) -> tuple[str, int | None]:
    """Return the name and the level of a compression, such as "zstd:19".

    Parameters
    ----------
    option : str
        Name of the option, for errors.
    value : str
        Value of the option.

    Returns
    -------
    name : str
    level : int or None
        None for the default of the compression.

    Raises
    ------
    InvalidOption
        There is no such compression or level.

    Examples
    --------
    >>> split_compression("compression", "zstd:19"), split_compression("compression", "LZ4")
    (('zstd', 19), ('lz4', None))
    """
    text = value.strip().lower() if isinstance(value, str) else ""
    name, colon, level = text.partition(":")
    if name not in COMPRESSIONS and name not in extension_names(COMPRESSION_GROUP):
        raise unknown_name(option, value, [*COMPRESSIONS, *extension_names(COMPRESSION_GROUP)])
    if not colon:
        return name, None
    highest = MAX_COMPRESSION_LEVEL.get(name, 0) if name in COMPRESSIONS else None
    number = int(level) if level.isdecimal() and level.isascii() and len(level) < 4 else -1
    if highest == 0 or number < _MIN_COMPRESSION_LEVEL or number > (highest or number):
        raise InvalidOption(
            f"{option} is {value!r}",
            advice=f"{name} has no levels"
            if highest == 0
            else f"give a level from {_MIN_COMPRESSION_LEVEL} to {highest or 999}",
        )
    return name, number


def _parse_count(name: str, value: object) -> object:
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    _check_count(name, value)
    return value


def _parse_kept_bytes(name: str, value: object) -> int:
    return parse_size(name, value, minimum=0)


def _parse_versions(name: str, value: object) -> object:
    if value not in get_args(VersionedCollections):
        raise InvalidOption(f"{name} is {value!r}", advice='use "large" or "all"')
    return value


_ENGINE_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "max_memory": parse_size,
    "background_save": _optional(parse_duration),
    "durability": _parse_durability,
    "sync_interval": parse_duration,
    "threads": _optional(_parse_count),
    "part_size": _parse_part_size,
    "keep_versions": _parse_count,
    "versions": _parse_versions,
    "keep_changes": _parse_kept_bytes,
    "keep_changes_for": _optional(parse_duration),
    "part_grace": parse_duration,
    "compression": _parse_compression,
    "max_document_bytes": check_document_limit,
}


def check_flags(**flags: object) -> None:
    """Check options that are true or false.

    Raises
    ------
    InvalidOption
        An option has another value, such as the text "no", which would count as true.

    Examples
    --------
    >>> check_flags(read_only=True)
    """
    for name, value in flags.items():
        if not isinstance(value, bool):
            raise InvalidOption(f"{name} is {value!r}", advice="give True or False")
