"""Limits and choices for reading and writing, checked once where they enter."""

from __future__ import annotations

import datetime as dt
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from godb_arrow.errors import InvalidOption

__all__ = [
    "DEFAULT_DOCUMENT_BYTES",
    "MAX_DEPTH",
    "MAX_DOCUMENT_BYTES",
    "CompressionName",
    "Durability",
    "EngineOptions",
    "OnConflict",
    "OnMismatch",
    "OptionWarning",
    "ReadKeywords",
    "ReadOptions",
    "check_document_limit",
    "parse_duration",
    "parse_size",
]

OnConflict = Literal["json", "error"]
OnMismatch = Literal["error", "null"]

MAX_DEPTH = 128
"""Levels of maps and arrays that a document may nest; the document itself is the first."""

DEFAULT_DOCUMENT_BYTES = 64 << 20
"""MessagePack bytes of a document with its id, max, unless an option says otherwise."""

MAX_DOCUMENT_BYTES = 1 << 30
"""Highest value of ``max_document_bytes`` for writing: what copies and ``verify`` read."""


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How documents become record batches.

    Parameters
    ----------
    batch_size : int
        Documents in a record batch, at most.
    batch_bytes : int
        MessagePack bytes in a record batch, at most (a larger document has a batch of its own).
    max_document_bytes : int
        Max MessagePack bytes of a document with its id, default 64 MiB. A larger document is
        refused before memory is reserved for it.
    on_conflict : {"json", "error"}
        What becomes of a field whose values no single Arrow type can hold: JSON text, or
        :class:`~godb_arrow.TypeConflict`.
    on_mismatch : {"error", "null"}
        What becomes of a value that does not fit a schema given by the caller.
    sample : int or None
        Look at this many documents only when inferring the schema; None looks at all.
    use_hints : bool
        Trust the schema that godb_arrow recorded in a file that nobody changed since.
    threads : int or None
        Threads that decompress and decode; None takes as many as there are cores. Small files
        are read without threads.

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


class ReadKeywords(TypedDict, total=False):
    """The fields of :class:`ReadOptions`, as keyword arguments of the reading functions."""

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
        raise InvalidOption(f"{name} is {value!r}", advice="give a whole number of at least 1")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InvalidOption(f"{name} is {value!r}", advice=f"use one of {', '.join(choices)}")


Durability = Literal["commit", "interval", "checkpoint"]
CompressionName = Literal["lz4", "lz4hc", "zstd", "none"]


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How a :class:`~godb_arrow.StorageEngine` works.

    Parameters
    ----------
    max_memory : int
        Bytes that cached views, unsaved documents and stream buffers may take together.
    background_save : float or None
        Seconds between two background saves; None saves at memory pressure, ``save`` and
        ``close`` only.
    durability : {"commit", "interval", "checkpoint"}
        What an acknowledged write survives: a power cut; a crash of the process, and a power
        cut but for the last `sync_interval`; or nothing but what was saved.
    sync_interval : float
        Seconds between two syncs of the journal, with ``durability="interval"``.
    threads : int or None
        Threads of a stream; None takes as many as there are cores.
    part_size : int
        Bytes of documents, decompressed, that a file has at most: a larger collection has several.
    keep_versions : int
        How many of the last saved states of a collection that has several files stay readable.
    part_grace : float
        Seconds for which files stay that no state needs any more, for who reads from another
        process.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        How the files of new collections are compressed.
    max_document_bytes : int
        Max MessagePack bytes of a document with its id, for writing and reading alike.

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
    part_grace: float = 600.0
    compression: CompressionName = "lz4"
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES

    @classmethod
    def checked(cls, **given: Any) -> EngineOptions:
        """Take options as a user writes them; a bad one is replaced by the default, with a warning.

        Parameters
        ----------
        **given
            The fields; sizes as numbers of bytes or such as ``"1GB"``, times as seconds,
            ``timedelta`` or such as ``"5min"``.

        Returns
        -------
        EngineOptions

        Warns
        -----
        OptionWarning
            Names the option, its value and the default taken instead.
        """
        good: dict[str, Any] = {}
        for name, value in given.items():
            default = cls.__dataclass_fields__[name].default
            try:
                good[name] = _ENGINE_PARSERS[name](name, value)
            except InvalidOption as error:
                warnings.warn(
                    f"{error}; using the default, {default!r}", OptionWarning, stacklevel=4
                )
        return cls(**good)


class OptionWarning(UserWarning):
    """An option has a value that makes no sense; the default is used."""


_SIZE_UNITS = {
    "": 1, "b": 1,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12,
    "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40,
}  # fmt: skip
_TIME_UNITS = {
    "": 1.0, "ms": 0.001, "s": 1.0, "sec": 1.0, "min": 60.0, "m": 60.0, "h": 3600.0, "d": 86400.0,
}  # fmt: skip
_LEAST_MEMORY = 1 << 20
_LEAST_PART = 1 << 10
_MIN_DOCUMENT = 1 << 10


def _quantity(text: str, units: Mapping[str, float]) -> float | None:
    match = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if match is None or match[2] not in units:
        return None
    return float(match[1]) * units[match[2]]


def parse_size(name: str, value: object, least: int = _LEAST_MEMORY) -> int:
    """Bytes, given as a number or with a unit, such as ``"512MB"`` or ``"1GiB"``."""
    size = _quantity(value, _SIZE_UNITS) if isinstance(value, str) else value
    if isinstance(size, bool) or not isinstance(size, (int, float)) or not size >= least:
        raise InvalidOption(
            f"{name} is {value!r}",
            advice=f"give at least {least >> 10} KiB, in bytes or such as '1GB'",
        )
    return int(size)


def parse_duration(name: str, value: object) -> float:
    """Seconds, given as a number, a timedelta, or with a unit, such as ``"5min"``."""
    seconds: object = value
    if isinstance(value, str):
        seconds = _quantity(value, _TIME_UNITS)
    elif isinstance(value, dt.timedelta):
        seconds = value.total_seconds()
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, (int, float))
        or not 0.001 <= seconds <= 366 * 86400
    ):
        raise InvalidOption(
            f"{name} is {value!r}", advice="give seconds, a timedelta, or such as '5min'"
        )
    return float(seconds)


def _optional(parse: Callable[[str, object], Any]) -> Callable[[str, object], Any]:
    return lambda name, value: None if value is None else parse(name, value)


def _parse_part_size(name: str, value: object) -> object:
    return parse_size(name, value, _LEAST_PART)


def check_document_limit(name: str, value: object) -> int:
    """Return the limit of a document's size, in bytes.

    Raises
    ------
    InvalidOption
        No file of ours could be copied or verified with it.
    """
    size = parse_size(name, value, _MIN_DOCUMENT)
    if size > MAX_DOCUMENT_BYTES:
        raise InvalidOption(f"{name} is {value!r}", advice="give at most 1 GiB")
    return size


def _parse_durability(name: str, value: object) -> object:
    _check_choice(name, value, ("commit", "interval", "checkpoint"))
    return value


def _parse_compression(name: str, value: object) -> object:
    _check_choice(name, value, get_args(CompressionName))
    return value


def _parse_count(name: str, value: object) -> object:
    _check_count(name, value)
    return value


_ENGINE_PARSERS: dict[str, Callable[[str, object], Any]] = {
    "max_memory": parse_size,
    "background_save": _optional(parse_duration),
    "durability": _parse_durability,
    "sync_interval": parse_duration,
    "threads": _optional(_parse_count),
    "part_size": _parse_part_size,
    "keep_versions": _parse_count,
    "part_grace": parse_duration,
    "compression": _parse_compression,
    "max_document_bytes": check_document_limit,
}
