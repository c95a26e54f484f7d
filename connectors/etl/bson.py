"""Documents of MongoDB in BSON files, which ``mongodump`` writes and ``mongorestore`` reads."""

from __future__ import annotations

import base64
import datetime as dt
import re
import uuid
from array import array
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any, BinaryIO

import msgpack
import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.codec.jsontext import from_reserved, timestamp_text, to_reserved
from godb_arrow.codec.reference.bsonread import BSON_TYPES, MAX_BSON_BYTES, MIN_BSON_BYTES
from godb_arrow.connectors import missing
from godb_arrow.documents.block_runs import BlockRun, Turns
from godb_arrow.documents.encoding import Encoded, threads
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.loading import load_run
from godb_arrow.documents.rows import ROWS
from godb_arrow.errors import GodbError, InvalidDocument
from godb_arrow.parallel import ordered_map
from godb_arrow.schema import ID_FIELD

__all__ = ["BsonSource", "encode", "encode_runs"]


try:
    import bson
    from bson.binary import UuidRepresentation
    from bson.codec_options import CodecOptions, DatetimeConversion
    from bson.datetime_ms import DatetimeMS

    from godb_arrow.connectors.etl.bson_types import FieldTypes, describe_types
except ImportError as error:
    raise missing("mongo", "pymongo, which has BSON,") from error

_OPTIONS: CodecOptions[dict[str, Any]] = CodecOptions(
    tz_aware=True,
    tzinfo=dt.UTC,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,
)
_SIZE_BYTES = 4  # of the size of a document
_RESERVED = frozenset(("$time", "$map"))
_REGEX_FLAGS = {"i": re.I, "l": re.L, "m": re.M, "s": re.S, "u": re.U, "x": re.X}


class BsonSource:
    """Documents of a BSON file, which can be read once.

    Object ids become their 24 hexadecimal digits. Decimals, UUIDs, and integers as ids become text,
    so that they equal the ids of documents. :meth:`schema_metadata` says which fields had them.
    Values that only MongoDB has become maps such as ``{"$regex": …}``, and bytes of a subtype
    become ``{"$binary": {"base64": …, "subType": …}}``.

    Parameters
    ----------
    stream : binary file
        Stream at the beginning of the file.
    name : str
        Name of the file, for messages.
    count : callable, optional
        Function that is called with a number of documents, as they are read.

    Examples
    --------
    >>> import io
    >>> list(BsonSource(io.BytesIO(encode({"_id": "a", "n": 1})), "dump.bson"))
    [{'_id': 'a', 'n': 1}]
    """

    def __init__(
        self,
        stream: BinaryIO,
        name: str,
        *,
        count: Callable[[int], object] = lambda documents: None,
    ) -> None:
        self._stream = stream
        self._name = name
        self._count = count
        self._types = FieldTypes()

    def counted(self, count: Callable[[int], object]) -> BsonSource:
        """Return the same documents, and count them as they are read."""
        return BsonSource(self._stream, self._name, count=count)

    def schema_metadata(self, before: pa.Schema | None) -> dict[bytes, bytes]:
        """Return metadata of a schema that records the types of MongoDB, after the last document.

        Parameters
        ----------
        before : pyarrow.Schema or None
            Schema of the documents that the collection already has; None without any.

        Returns
        -------
        dict of bytes to bytes
        """
        return describe_types(self._types, before)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the documents.

        Raises
        ------
        InvalidDocument
            The file is not BSON. The error has the document's number.
        """
        for raw in self.encoded():
            yield _document(raw, self._types)

    def encoded(self) -> Iterator[bytes]:
        """Yield the documents in BSON, unchanged."""
        number = 0
        while head := self._stream.read(4):
            number += 1
            try:
                raw = head + self._stream.read(_size_of(head) - 4)
                _check_whole(raw)
                _decoded(raw)
            except _Invalid as error:
                raise self._bad(number, error) from error
            yield raw
            self._count(1)

    def encode_documents(
        self,
        id_field: str,
        sequence: IdSequence,
        limit: int,
        prepare: Callable[[Encoded], Encoded] = lambda encoded: encoded,
    ) -> Iterator[Encoded]:
        """Encode the documents as entries, on all cores; see :class:`JsonSource`."""
        turns = Turns()
        before = 0  # documents in the blocks that had their turn

        def encode(block: tuple[int, bytes]) -> list[Encoded]:
            nonlocal before
            number, raw = block
            types = FieldTypes()
            documents, error = _read(raw, types)
            runs = [BlockRun(part, id_field) for part in documents.split(ROWS)]
            with turns.turn(number):
                self._types.merge(types)
                for run in runs:
                    run.take_ids(sequence, before)
                    before += run.count
                if isinstance(error, _Invalid):
                    raise self._bad(before + 1, error) from error
                if error is not None:
                    error.message = f"document number {before}: {error.message}"
                    raise error
            return [prepare(run.encode(limit)) for run in runs]

        with closing(ordered_map(encode, enumerate(self._blocks()), threads())) as results:
            for encoded in results:
                for run in encoded:
                    yield run
                    self._count(len(run.ids))

    def _blocks(self) -> Iterator[bytes]:
        """Yield the file in blocks of whole documents, but for a document that is cut off."""
        waiting = b""
        wanted = CHUNK_BYTES
        while data := self._stream.read(wanted):
            data = waiting + data
            end = codec.cut_bson(data)
            if end:
                yield data[:end]
            waiting = data[end:]
            wanted = CHUNK_BYTES
            if len(waiting) >= _SIZE_BYTES:  # a document that may be larger than a block
                wanted = max(wanted, _size_of(waiting) - len(waiting))
        if waiting:
            yield waiting

    def _bad(self, number: int, problem: Exception) -> InvalidDocument:
        return InvalidDocument(
            f"document {number} of {self._name} is not BSON: {problem}",
            advice="give a file of mongodump, decompressed",
        )


class _Invalid(Exception):
    """Problem of a document that is not BSON."""


def _size_of(head: bytes) -> int:
    """Return the size of a document by its first bytes."""
    size = int.from_bytes(head[:_SIZE_BYTES], "little", signed=True)
    if len(head) < _SIZE_BYTES or not MIN_BSON_BYTES <= size <= MAX_BSON_BYTES:
        raise _Invalid(f"its size is {size} bytes")
    return size


def _check_whole(raw: bytes) -> None:
    if len(raw) < _size_of(raw):
        raise _Invalid("the file ends inside it")


def _decoded(raw: bytes) -> dict[str, Any]:
    try:
        document: dict[str, Any] = bson.decode(raw, _OPTIONS)
    except (bson.errors.BSONError, ValueError, OverflowError) as error:
        raise _Invalid(str(error)) from error
    return document


def _document(raw: bytes, types: FieldTypes) -> dict[str, Any]:
    """Return a document, and note the types that others have, too."""
    document = _decoded(raw)
    identity = document.get(ID_FIELD)
    if isinstance(identity, int) and not isinstance(identity, bool):
        types.child(ID_FIELD).types.add("int")
    return {key: _plain(value, types.child(key)) for key, value in document.items()}


def _read(block: bytes, types: FieldTypes) -> tuple[codec.Documents, GodbError | _Invalid | None]:
    """Return the documents of a block up to an error, and the error; note their types."""
    reader = codec.BsonReader(block)
    data, bounds, at = reader.read(0)
    parts = [(data, bounds)]
    error: GodbError | _Invalid | None = None
    while at < len(block):
        try:
            size = _size_of(block[at : at + _SIZE_BYTES])
            raw = block[at : at + size]
            _check_whole(raw)
            packed = codec.pack(_document(raw, types))
        except (GodbError, _Invalid) as problem:
            error = problem
            break
        parts.append((packed, array("q", [0, len(packed)])))
        data, bounds, at = reader.read(at + size)
        parts.append((data, bounds))
    places = [types]
    for parent, key, own, texts in reader.paths()[1:]:
        place = places[parent].child(key)
        place.types |= _names(own)
        place.texts |= _names(texts)
        places.append(place)
    return codec.Documents.joined(parts), error


def _names(bits: int) -> set[str]:
    """Return the types in a set of bits."""
    return {name for index, name in enumerate(BSON_TYPES) if bits >> index & 1}


def _plain(value: Any, types: FieldTypes) -> Any:
    """Convert a value to Python's own types, and note its type if others have them, too."""
    if isinstance(value, Mapping):
        plain = {key: _plain(item, types.child(key)) for key, item in value.items()}
        return from_reserved(plain, _RESERVED)
    if isinstance(value, list):
        return [_plain(item, types) for item in value]
    if isinstance(value, bson.ObjectId):
        types.types.add("objectId")
        return str(value)
    if isinstance(value, bson.Decimal128):
        types.types.add("decimal")
        return str(value.to_decimal())
    if isinstance(value, uuid.UUID):
        types.types.add("uuid")
        return str(value)
    if isinstance(value, bson.Int64):
        return int(value)
    if isinstance(value, (bson.Code, bson.Regex, bson.Timestamp, bson.DBRef, bson.Binary)):
        return _plain_of_mongo(value, types)
    if isinstance(value, (bson.MinKey, bson.MaxKey)):
        return {f"${type(value).__name__.lower()}": 1}
    if isinstance(value, bson.DatetimeMS):
        seconds, milliseconds = divmod(int(value), 1_000)
        return msgpack.Timestamp(seconds, milliseconds * 1_000_000)
    if isinstance(value, str):
        types.see_text(value)
    return value


def _plain_of_mongo(value: Any, types: FieldTypes) -> Any:
    """Convert a value that only MongoDB has to a map, or to bytes."""
    if isinstance(value, bson.Code):
        scope = {} if value.scope is None else {"$scope": _plain(value.scope, FieldTypes())}
        return {"$code": str(value), **scope}
    if isinstance(value, bson.Regex):
        flags = "".join(name for name, flag in _REGEX_FLAGS.items() if value.flags & flag)
        return {"$regex": value.pattern, **({"$options": flags} if flags else {})}
    if isinstance(value, bson.Timestamp):
        return {"$timestamp": {"t": int(value.time), "i": int(value.inc)}}
    if isinstance(value, bson.DBRef):
        database = {} if value.database is None else {"$db": value.database}
        return {"$ref": value.collection, "$id": _plain(value.id, types.child("$id")), **database}
    if value.subtype:
        text = base64.b64encode(value).decode()
        return {"$binary": {"base64": text, "subType": f"{value.subtype:02x}"}}
    return bytes(value)


def _stored(value: Any, types: FieldTypes) -> Any:
    """Return a value that BSON keeps: its dates have milliseconds."""
    if isinstance(value, str):
        return types.build(value) if types.types else value
    if isinstance(value, Mapping):
        native = _native(value)
        if native is not None:
            return native
        stored = {key: _stored(item, types.at((key,))) for key, item in value.items()}
        return to_reserved(stored) if len(stored) == 1 and set(stored) <= _RESERVED else stored
    if isinstance(value, (list, tuple)):
        return [_stored(item, types) for item in value]
    if isinstance(value, dt.datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)
        stamp = msgpack.Timestamp.from_datetime(moment)
        return value if value.microsecond % 1_000 == 0 else _time_map(stamp)
    if isinstance(value, msgpack.Timestamp):
        milliseconds, finer = divmod(value.nanoseconds, 1_000_000)
        total = value.seconds * 1_000 + milliseconds
        is_exact = not finer and -(2**63) <= total < 2**63
        return DatetimeMS(total) if is_exact else _time_map(value)
    return value


def _native(value: Mapping[Any, Any]) -> Any:
    """Return the value of MongoDB that :func:`_plain` converts to a map; None for other maps."""
    build = _BUILDERS.get(next(iter(value), None))
    try:
        native = build and build(value)
        return (
            native
            if native is not None and repr(_plain(native, FieldTypes())) == repr(value)
            else None
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
        return None


def _binary(value: Mapping[str, Any]) -> bson.Binary:
    described = value["$binary"]
    return bson.Binary(base64.b64decode(described["base64"]), int(described["subType"], 16))


def _regex(value: Mapping[str, Any]) -> bson.Regex[Any]:
    if "\0" in value["$regex"]:
        raise ValueError("patterns end at U+0000")
    flags = sum(_REGEX_FLAGS[name] for name in value.get("$options", ""))
    return bson.Regex(value["$regex"], flags)


_BUILDERS: dict[str | None, Callable[[Mapping[Any, Any]], Any]] = {
    "$binary": _binary,
    "$regex": _regex,
    "$code": lambda value: bson.Code(value["$code"], value.get("$scope")),
    "$timestamp": lambda value: bson.Timestamp(value["$timestamp"]["t"], value["$timestamp"]["i"]),
    "$minkey": lambda _: bson.MinKey(),
    "$maxkey": lambda _: bson.MaxKey(),
}
"""Functions that build a value of MongoDB, by the first key of its map."""


def _time_map(stamp: msgpack.Timestamp) -> dict[str, Any]:
    text = timestamp_text(stamp.seconds, stamp.nanoseconds)
    return {"$time": [stamp.seconds, stamp.nanoseconds] if text is None else text}


def encode(document: Mapping[str, Any], types: FieldTypes | None = None) -> bytes:
    """Encode one document as BSON.

    Parameters
    ----------
    document : mapping
        Document, as :func:`~godb_arrow.read_documents` returns it. Moments finer than a
        millisecond become maps such as ``{"$time": "2024-02-29T06:30:00.123456Z"}``, and maps that
        :class:`BsonSource` makes become values of MongoDB again.
    types : FieldTypes, optional
        Fields whose texts stand for other values of MongoDB; none by default.

    Returns
    -------
    bytes

    Raises
    ------
    InvalidDocument
        BSON has no such value, for example an integer above 2^63-1 or an extension type.

    Examples
    --------
    >>> len(encode({"n": 1}))
    12
    """
    try:
        known = types or FieldTypes()
        stored = {key: _stored(value, known.at((key,))) for key, value in document.items()}
        return bson.encode(stored, codec_options=_OPTIONS)
    except (bson.errors.BSONError, OverflowError, TypeError, ValueError) as error:
        raise InvalidDocument(
            f"document {document.get(ID_FIELD)!r} cannot be stored as BSON: {error}",
            advice="omit the field with columns=, or export to NDJSON",
        ) from error


def encode_runs(runs: Iterator[codec.Entries], types: FieldTypes) -> Iterator[tuple[bytes, int]]:
    """Encode stored documents as BSON, on all cores.

    Parameters
    ----------
    runs : iterator of Entries
        The documents.
    types : FieldTypes
        See :func:`encode`.

    Yields
    ------
    encoded : bytes
        Documents of a run.
    count : int
        Number of documents in the run.

    Raises
    ------
    InvalidDocument
    """
    paths = _paths(types)

    def write(run: codec.Entries) -> tuple[bytes, int]:
        parts, row = [], 0
        while True:
            encoded, row = codec.write_bson(run.data, run.bounds, True, paths, row)
            parts.append(encoded)
            if row == len(run):
                return b"".join(parts), len(run)
            (document,) = load_run(codec.take(run, np.array([row], np.int64)))
            parts.append(encode(document, types))
            row += 1

    split = (part for run in runs for part in run.split())
    with closing(ordered_map(write, split, threads())) as written:
        yield from written


def _paths(types: FieldTypes) -> list[tuple[int, str, int]]:
    """Return the paths of types: index of the parent, last key, and types as bits."""
    found = [(-1, "", _bits(types.types))]
    waiting = [(0, types)]
    for index, place in waiting:
        for key, child in place.children.items():
            waiting.append((len(found), child))
            found.append((index, key, _bits(child.types)))
    return found


def _bits(names: set[str]) -> int:
    return sum(1 << index for index, name in enumerate(BSON_TYPES) if name in names)
