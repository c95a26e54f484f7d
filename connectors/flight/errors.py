"""Errors of a server at its client, with the same classes and attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow import codec
from godb_arrow.errors import (
    AccessDenied,
    CollectionNotFound,
    DepthExceeded,
    DocumentTooLarge,
    DuplicateId,
    DuplicateValue,
    FieldNotFound,
    GodbError,
    InvalidCollectionName,
    InvalidDocument,
    InvalidFilter,
    InvalidOption,
    LimitExceeded,
    MemoryLimitExceeded,
    MissingValidator,
    SchemaError,
    SchemaViolation,
    StorageError,
    TypeConflict,
    TypeMismatch,
    UnsupportedType,
)

__all__ = ["client_errors", "sent_error"]

# gRPC refuses errors above 8 KiB. It sends the text twice, with escapes of three bytes.
_MAX_MESSAGE_BYTES = 900
_MAX_ADVICE_BYTES = 300
_MAX_ATTRIBUTE_BYTES = 1_200

_TOO_LARGE = "larger than max"  # what gRPC says of a message that a server does not receive

_KINDS: dict[str, type[GodbError]] = {
    kind.__name__: kind
    for kind in (
        CollectionNotFound,
        DepthExceeded,
        DocumentTooLarge,
        DuplicateId,
        DuplicateValue,
        FieldNotFound,
        InvalidCollectionName,
        InvalidDocument,
        InvalidFilter,
        InvalidOption,
        LimitExceeded,
        MemoryLimitExceeded,
        MissingValidator,
        SchemaError,
        SchemaViolation,
        TypeConflict,
        TypeMismatch,
        UnsupportedType,
    )
}
"""Errors that the caller can do something about, by name."""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> list[str]:
    return list(map(_text, value)) if isinstance(value, list) else []


def _value(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


_ATTRIBUTES: dict[type[GodbError], dict[str, Callable[[Any], Any]]] = {
    DuplicateId: {"ids": _texts},
    DuplicateValue: {
        "ids": _texts,
        "fields": lambda names: tuple(_texts(names)),
        "value": _value,
    },
    SchemaViolation: {"id": _text, "path": _text, "problem": _text},
}
"""Attributes of errors, with what makes them of values of MessagePack."""


# --- server -----------------------------------------------------------------------------------


def sent_error(error: GodbError) -> fl.FlightServerError:
    """Return an error of Flight that has the text, the class and the attributes of another.

    Long texts are cut. An attribute that makes the error too large is not sent.
    """
    text = _cut(error.message, _MAX_MESSAGE_BYTES)
    if error.advice:
        text += f"; {_cut(error.advice, _MAX_ADVICE_BYTES)}"
    info = type(error).__name__.encode()
    attributes: dict[str, Any] = {}
    for name in _ATTRIBUTES.get(type(error), ()):
        value = getattr(error, name)
        with suppress(GodbError):  # a value that documents cannot have
            if len(codec.pack({**attributes, name: value})) <= _MAX_ATTRIBUTE_BYTES:
                attributes[name] = value
    if attributes:
        info += b"\n" + codec.pack(attributes)
    return fl.FlightServerError(text, extra_info=info)


def _cut(text: str, most: int) -> str:
    raw = text.encode("utf-8", "replace")
    return text if len(raw) <= most else raw[:most].decode("utf-8", "ignore") + "…"


# --- client -----------------------------------------------------------------------------------


@contextmanager
def client_errors(location: str) -> Iterator[None]:
    """Convert errors of Flight to errors of this package, which name the location."""
    try:
        yield
    except GodbError:
        raise
    except (fl.FlightUnauthenticatedError, fl.FlightUnauthorizedError) as error:
        raise AccessDenied(f"the server at {location} refused: {_first_line(error)}") from error
    except fl.FlightServerError as error:
        raise _received(error, location) from error
    except (fl.FlightError, pa.ArrowException, OSError) as error:
        if _TOO_LARGE in str(error):
            raise LimitExceeded(
                f"the server at {location} refused: {_first_line(error)}",
                advice="send smaller batches",
            ) from error
        raise StorageError(f"the server at {location} failed: {_first_line(error)}") from error


def _received(error: fl.FlightServerError, location: str) -> GodbError:
    """Return the error that a server sent; a server without names of errors failed."""
    if not error.extra_info:
        return StorageError(f"the server at {location} failed: {_first_line(error)}")
    name, _, packed = error.extra_info.partition(b"\n")
    kind = _KINDS.get(name.decode("ascii", "replace"), InvalidOption)
    received = kind.__new__(kind)
    GodbError.__init__(received, f"the server at {location} refused: {_first_line(error)}")
    readers = _ATTRIBUTES.get(kind)
    if readers:
        attributes: Any = None
        with suppress(GodbError):  # a server of another program may send anything
            attributes = codec.load(packed)
        for name, read in readers.items():
            setattr(
                received, name, read(attributes.get(name) if isinstance(attributes, dict) else None)
            )
    return received


def _first_line(error: BaseException) -> str:
    text = str(error.args[0] if error.args else error)
    return text.partition(" Detail: ")[0].partition(". gRPC client debug context")[0]
