"""Expectations that stand beside fixtures, written and read without the package under test.

The folder ``NAME.expected`` has ``expected.json`` with facts about the fixture and its
collections. Each collection has a compressed Arrow IPC stream with its rows and declared types. It
also has a file of JSON lines with its documents, unless the documented rules derive them from the
rows.
"""

from __future__ import annotations

import datetime as dt
import decimal
import json
import lzma
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class ExpectedCollection:
    """Documents of a collection as JSON lines, its rows, and facts such as its indexes."""

    documents: list[str]
    table: pa.Table | None
    facts: dict[str, Any]


@dataclass(frozen=True)
class Expected:
    """Collections of a fixture by name, in its order, and facts about the fixture."""

    collections: dict[str, ExpectedCollection]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Content:
    """Content of a collection to be expected."""

    documents: list[dict[Any, Any]]
    table: pa.Table | None = None
    facts: dict[str, Any] = field(default_factory=dict)


def write_expected(folder: Path, collections: Mapping[str, Content], **facts: Any) -> None:
    """Write the expectation of a fixture."""
    folder.mkdir(parents=True)
    described = []
    for number, (name, content) in enumerate(collections.items(), 1):
        described.append({"name": name, **content.facts})
        if content.table is not None:
            folder.joinpath(f"{number}.arrow.xz").write_bytes(_packed(content.table))
        documents = lines(content.documents)
        if content.table is None or documents != lines(stored_documents(content.table)):
            text = "".join(f"{document}\n" for document in documents)
            folder.joinpath(f"{number}.jsonl").write_text(text, "ascii", newline="\n")
    text = json.dumps({"collections": described, **facts}, indent=1)
    folder.joinpath("expected.json").write_text(text + "\n", "ascii", newline="\n")


def _packed(table: pa.Table) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    return lzma.compress(stream.getvalue(), preset=9)


def read_expected(folder: Path) -> Expected:
    """Read the expectation of a fixture."""
    facts = json.loads(folder.joinpath("expected.json").read_text("ascii"))
    collections = {}
    for number, described in enumerate(facts.pop("collections"), 1):
        packed, texts = folder / f"{number}.arrow.xz", folder / f"{number}.jsonl"
        table = None
        if packed.exists():
            with pa.ipc.open_stream(lzma.decompress(packed.read_bytes())) as reader:
                table = reader.read_all()
        if texts.exists():
            documents = texts.read_text("ascii").splitlines()
        else:
            assert table is not None
            documents = lines(stored_documents(table))
        collections[described.pop("name")] = ExpectedCollection(documents, table, described)
    return Expected(collections, facts)


def line(value: Any) -> str:
    """Return a value as JSON text that differs wherever type, value or order differ."""
    return json.dumps(_encoded(value))


def lines(values: Iterable[Any]) -> list[str]:
    """Return each value as JSON text."""
    return [line(value) for value in values]


def _encoded(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return {"$float": repr(value)}
    if isinstance(value, (dt.datetime, msgpack.Timestamp)):
        return {"$moment": [*_moment(value)]}
    if isinstance(value, dt.timedelta):
        return {"$nanoseconds": _nanoseconds(value)}
    if isinstance(value, (list, tuple)) and not isinstance(value, msgpack.ExtType):
        return [_encoded(element) for element in value]
    if isinstance(value, dict):
        if all(isinstance(key, str) and key[:1] != "$" for key in value):
            return {key: _encoded(item) for key, item in value.items()}
        return {"$map": [[_encoded(key), _encoded(item)] for key, item in value.items()]}
    if isinstance(value, msgpack.ExtType):
        return {"$extension": [value.code, value.data.hex()]}
    if isinstance(value, bytes):
        return {"$binary": value.hex()}
    assert isinstance(value, (dt.date, dt.time, decimal.Decimal, uuid.UUID)), type(value)
    return {f"${type(value).__name__}": str(value)}


def _moment(value: dt.datetime | msgpack.Timestamp) -> tuple[int, int]:
    """Return the seconds since 1970 in UTC and the nanoseconds after them."""
    if isinstance(value, msgpack.Timestamp):
        return value.seconds, value.nanoseconds
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    seconds, microseconds = divmod((value - _EPOCH) // _MICROSECOND, 1_000_000)
    return seconds, microseconds * 1_000 + getattr(value, "nanosecond", 0)


def _nanoseconds(value: dt.timedelta) -> int:
    return value // _MICROSECOND * 1_000 + getattr(value, "nanoseconds", 0)


def stored_documents(table: pa.Table, *, omit_nulls: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the documents of a table, by the documented rules; without ``_id`` they are counted."""
    columns = [_values(table.column(name)) for name in table.column_names]
    for number, row in enumerate(zip(*columns, strict=True), 1):
        document: dict[str, Any] = {"_id": str(number)}
        for column, value in zip(table.schema, row, strict=True):
            if value is not None or not omit_nulls:
                document[column.name] = stored(value, column.type)
        document["_id"] = str(document["_id"])  # ids of any type are strings
        yield document


def stored(value: Any, kind: pa.DataType) -> Any:
    """Return the value that a document has for a value of an Arrow type."""
    types = pa.types
    if value is None:
        return None
    if isinstance(kind, pa.BaseExtensionType):
        if isinstance(kind, pa.JsonType):
            return json.loads(value)
        return stored(value, kind.storage_type)
    if types.is_struct(kind):
        return {child.name: stored(value[child.name], child.type) for child in kind}
    if types.is_map(kind):
        return {key: stored(item, kind.item_type) for key, item in value}
    if isinstance(value, list):
        return [stored(element, kind.value_type) for element in value]
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return stored(value, kind.value_type)
    if types.is_date(kind):
        return dt.datetime.combine(value, dt.time(), dt.UTC)
    if types.is_time(kind):
        return _nanoseconds(dt.datetime.combine(_EPOCH, value, dt.UTC) - _EPOCH)
    if types.is_duration(kind):
        return _nanoseconds(value)
    if types.is_decimal(kind):
        return format(value, "f")
    return value


def _values(column: pa.ChunkedArray) -> list[Any]:
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    values: list[Any] = column.to_pylist()
    return values


def rows(table: pa.Table) -> list[str]:
    """Return the rows of a table as JSON lines; NaN equals NaN, and 0.0 differs from -0.0."""
    columns = [_values(table.column(name)) for name in table.column_names]
    return lines(zip(*columns, strict=True))


def same_types(found: pa.Schema, wanted: pa.Schema) -> bool:
    """Return whether names, types and nullability are equal, and metadata of users are kept."""
    return bool(found.equals(wanted)) and all(
        (left.metadata or {}).get(key) == value
        for left, right in zip([found, *found], [wanted, *wanted], strict=True)
        for key, value in (right.metadata or {}).items()
        if key != b"pandas"
    )
