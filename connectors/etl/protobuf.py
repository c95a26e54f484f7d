"""Messages of Protocol Buffers as documents, with the extra ``protobuf``.

A file has one message after the other, each after its length as a varint. The methods
``writeDelimitedTo`` of Java and ``serialize_length_prefixed`` of Python write such files. A
descriptor set describes the messages, which ``protoc --include_imports --descriptor_set_out=FILE``
writes.
"""

from __future__ import annotations

import datetime as dt
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgpack

from godb_arrow.connectors import missing
from godb_arrow.errors import InvalidDocument, InvalidOption
from godb_arrow.schema import ID_FIELD
from godb_arrow.storage.limited import read_limited

__all__ = ["kind", "read", "write"]

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
    from google.protobuf.descriptor import Descriptor, FieldDescriptor
    from google.protobuf.message import EncodeError
except ImportError as error:
    raise missing("protobuf", "protobuf") from error

kind = "documents"

_MAX_MESSAGE_BYTES = 16 << 20
_MAX_DESCRIPTOR_BYTES = 64 << 20
_MAX_DEPTH = 100  # of messages in messages, as in the library
_WRAPPERS = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
_TIMESTAMP, _DURATION = "google.protobuf.Timestamp", "google.protobuf.Duration"
_NANOSECONDS = 10**9
_FLOATS = frozenset({FieldDescriptor.CPPTYPE_DOUBLE, FieldDescriptor.CPPTYPE_FLOAT})
_MAX_WHOLE_FLOAT = 2**53  # of the floats that have each whole number up to it


def read(
    stream: BinaryIO, name: str, *, descriptor: str | os.PathLike[str], message: str | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the messages of a file as documents.

    Fields have the names of the descriptor. Enums become their names, timestamps moments, durations
    nanoseconds, and wrappers their values. Fields that are not set are absent.

    Parameters
    ----------
    stream : binary file
        The file.
    name : str
        Name of the file, for messages.
    descriptor : path
        File with the descriptor set.
    message : str, optional
        Full name of the messages, such as ``"shop.Order"``. Optional if the last file of the set
        has only one message.

    Raises
    ------
    InvalidDocument
        A message is damaged, or larger than 16 MiB.
    InvalidOption
        The descriptor does not have the message.
    """
    kind = _message_class(descriptor, message)
    return _messages(stream, kind)


def _messages(stream: BinaryIO, kind: type[Any]) -> Iterator[dict[str, Any]]:
    number = 0
    while (size := _read_varint(stream, number)) is not None:
        if size > _MAX_MESSAGE_BYTES:
            raise InvalidDocument(
                f"message {number} claims {size} bytes; at most {_MAX_MESSAGE_BYTES} are allowed"
            )
        data = stream.read(size)
        if len(data) != size:
            raise InvalidDocument(f"message {number} ends early")
        found = kind()
        try:
            found.ParseFromString(data)
        except Exception as error:  # The library has several classes for it.
            raise InvalidDocument(f"message {number} is damaged: {error}") from error
        yield _document(found, 0)
        number += 1


def _read_varint(stream: BinaryIO, number: int) -> int | None:
    value = shift = 0
    while True:
        byte = stream.read(1)
        if not byte:
            if not shift:
                return None
            raise InvalidDocument(f"the length of message {number} ends early")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
        shift += 7
        if shift > 63:
            raise InvalidDocument(f"the length of message {number} has no end")


def _message_class(path: str | os.PathLike[str], name: str | None) -> type[Any]:
    with open(path, "rb") as file:
        data = read_limited(file, _MAX_DESCRIPTOR_BYTES)
    files = descriptor_pb2.FileDescriptorSet()
    pool = descriptor_pool.DescriptorPool()
    try:
        if len(data) > _MAX_DESCRIPTOR_BYTES:
            raise ValueError("it is too large")
        files.ParseFromString(data)
        for described in files.file:
            pool.Add(described)
        names = [
            f"{one.package}.{message.name}".lstrip(".")
            for one in files.file
            for message in one.message_type
        ]
        last = files.file[-1].message_type if files.file else []
        if name is None and len(last) == 1:
            name = names[-1]
        if name is None:
            raise InvalidOption(
                f"the descriptor has {len(names)} messages",
                advice=f"give message=, one of {', '.join(names[:20])}",
            )
        found: type[Any] = message_factory.GetMessageClass(pool.FindMessageTypeByName(name))
        return found
    except KeyError as error:
        raise InvalidOption(
            f"the descriptor has no message {name!r}", advice=f"use one of {', '.join(names[:20])}"
        ) from error
    except (InvalidOption, OSError):
        raise
    except Exception as error:  # The library has several classes for it.
        raise InvalidOption(
            f"{os.fspath(path)} is no descriptor set: {error}",
            advice="write it with protoc --include_imports --descriptor_set_out=FILE",
        ) from error


# --- messages to documents ---------------------------------------------------------------------


def _document(message: Any, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise InvalidDocument(f"a message is nested deeper than {_MAX_DEPTH} levels")
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        value = getattr(message, field.name)
        if _is_map(field):
            inner = field.message_type.fields_by_name["value"]
            if value:
                found[field.name] = {
                    _key(key): _value(inner, value[key], depth) for key in sorted(value)
                }
        elif _is_repeated(field):
            if len(value):
                found[field.name] = [_value(field, one, depth) for one in value]
        elif not field.has_presence or message.HasField(field.name):
            found[field.name] = _value(field, value, depth)
    return found


def _is_repeated(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _is_map(field: FieldDescriptor) -> bool:
    kind = field.message_type
    return kind is not None and _is_repeated(field) and kind.GetOptions().map_entry


def _key(key: Any) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _value(field: FieldDescriptor, value: Any, depth: int) -> Any:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return value if known is None else known.name
    if field.message_type is None:
        return value
    name = field.message_type.full_name
    if name == _TIMESTAMP:
        return (
            msgpack.Timestamp(value.seconds, value.nanos).to_datetime()
            if (value.nanos % 1000 == 0)
            else msgpack.Timestamp(value.seconds, value.nanos)
        )
    if name == _DURATION:
        return value.seconds * _NANOSECONDS + value.nanos
    if name in _WRAPPERS:
        return value.value
    return _document(value, depth + 1)


# --- documents to messages ---------------------------------------------------------------------


def write(
    stream: BinaryIO,
    documents: Iterable[dict[str, Any]],
    *,
    descriptor: str | os.PathLike[str],
    message: str | None = None,
) -> None:
    """Write documents as messages, each after its length.

    Parameters
    ----------
    stream : binary file
        The file.
    documents : iterable of dict
        The documents. A field that the message lacks is an error, apart from the id.
    descriptor, message
        See :func:`read`.

    Raises
    ------
    InvalidDocument
        A value does not fit its field, which would change it. The error names the document and the
        path of the field.
    """
    kind = _message_class(descriptor, message)
    for number, document in enumerate(documents):
        made = kind()
        try:
            _fill(made, document, "")
            data = made.SerializeToString(deterministic=True)
        except (TypeError, ValueError, OverflowError, EncodeError) as error:
            raise InvalidDocument(
                f"document {document.get(ID_FIELD, number)!r} does not fit the message: {error}",
                advice="choose columns, or give another message",
            ) from error
        stream.write(_varint(len(data)) + data)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


class _Misfit(ValueError):
    """Value that does not fit its field, whose path is in the message."""


def _fill(message: Any, document: dict[Any, Any], above: str) -> None:
    """Set the fields of a message, which is at a path."""
    fields = message.DESCRIPTOR.fields_by_name
    for name, value in document.items():
        path = f"{above}.{name}" if above else str(name)
        field = fields.get(name)
        if field is None:
            if not above and name == ID_FIELD:
                continue
            full_name = message.DESCRIPTOR.full_name
            raise _Misfit(f"the message {full_name} has no field {name!r} for {path!r}")
        if value is None:
            continue
        with _at(path):
            choice = field.containing_oneof
            if choice is not None and message.WhichOneof(choice.name) is not None:
                raise ValueError(f"another field of {choice.name!r} has a value, too")
            _set(message, field, value, path)


def _set(message: Any, field: FieldDescriptor, value: Any, path: str) -> None:
    if _is_map(field):
        _set_map(getattr(message, field.name), field, value, path)
    elif _is_repeated(field):
        if not isinstance(value, (list, tuple)):
            raise TypeError(f"{value!r} is no list")
        target = getattr(message, field.name)
        for index, one in enumerate(value):
            inner = f"{path}[{index}]"
            with _at(inner):
                if field.message_type is not None:
                    _fill_message(target.add(), field.message_type, one, inner)
                else:
                    target.append(_scalar(field, one))
    elif field.message_type is not None:
        target = getattr(message, field.name)
        target.SetInParent()
        _fill_message(target, field.message_type, value, path)
    else:
        setattr(message, field.name, _scalar(field, value))


def _set_map(target: Any, field: FieldDescriptor, value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise TypeError(f"{value!r} is no map")
    parts = field.message_type.fields_by_name
    for given, one in value.items():
        inner = f"{path}.{given}"
        with _at(inner):
            key = _typed_key(parts["key"], given)
            if key in target:
                raise ValueError("the map has this key twice")
            if parts["value"].message_type is not None:
                message = parts["value"].message_type
                _fill_message(target[key], message, one, inner)
            else:
                target[key] = _scalar(parts["value"], one)


@contextmanager
def _at(path: str) -> Iterator[None]:
    """Name the path of a value in errors."""
    try:
        yield
    except _Misfit:
        raise
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise _Misfit(f"field {path!r}: {error}") from error


def _typed_key(field: FieldDescriptor, key: Any) -> Any:
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL and key in ("true", "false"):
        return key == "true"
    is_number = field.cpp_type not in (
        FieldDescriptor.CPPTYPE_STRING,
        FieldDescriptor.CPPTYPE_BOOL,
    )
    if is_number and isinstance(key, str):
        number = int(key)
        if str(number) != key:
            raise ValueError("the key is no plain number")
        return number
    return _scalar(field, key)


def _fill_message(target: Any, kind: Descriptor, value: Any, path: str) -> None:
    if kind.full_name == _TIMESTAMP:
        target.seconds, target.nanos = _moment(value)
    elif kind.full_name == _DURATION:
        duration = _integer(value)
        sign = -1 if duration < 0 else 1
        seconds, nanos = divmod(abs(duration), _NANOSECONDS)
        target.seconds, target.nanos = sign * seconds, sign * nanos
    elif kind.full_name in _WRAPPERS:
        target.value = _scalar(kind.fields_by_name["value"], value)
    elif isinstance(value, dict):
        _fill(target, value, path)
    else:
        raise TypeError(f"{value!r} is no map")


def _moment(value: Any) -> tuple[int, int]:
    if isinstance(value, dt.datetime):
        value = msgpack.Timestamp.from_datetime(value)
    if not isinstance(value, msgpack.Timestamp):
        raise TypeError(f"{value!r} is no moment")
    return value.seconds, value.nanoseconds


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    """Return a value for a field, or raise an error if the field would change it."""
    if field.enum_type is not None and isinstance(value, str):
        known = field.enum_type.values_by_name.get(value)
        if known is None:
            raise ValueError(f"{field.enum_type.full_name} has no value {value!r}")
        return known.number
    if field.cpp_type in _FLOATS:
        return _float(value, field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT)
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        is_bytes = field.type == FieldDescriptor.TYPE_BYTES
        if not isinstance(value, bytes if is_bytes else str):
            raise TypeError(f"{value!r} is no {'binary value' if is_bytes else 'text'}")
        return value
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        if not isinstance(value, bool):
            raise TypeError(f"{value!r} is no bool")
        return value
    return _integer(value)


def _integer(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no whole number")
    return value


def _float(value: Any, is_single: bool) -> float:
    """Return a number as a float; fractions are rounded, and whole numbers are not."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no number")
    number = float(value)
    if is_single:
        (number,) = struct.unpack("<f", struct.pack("<f", number))
    is_whole = isinstance(value, int) or (value.is_integer() and abs(value) <= _MAX_WHOLE_FLOAT)
    if is_whole and number != value:
        raise ValueError(f"{value!r} is not exact as a {'float' if is_single else 'double'}")
    return number
