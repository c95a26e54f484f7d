"""CSV files as columns: types that fit all rows, exact integers, nulls apart from empty strings.

Arrow infers the types from the first block of a file. This module tries them on the whole file.
If a later row does not fit, a wider type replaces the type of its column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.csv

from godb_arrow.arrow_compute import pc
from godb_arrow.errors import UnsupportedType
from godb_arrow.schema import ID_FIELD
from godb_arrow.storage.source import Source

__all__ = ["open_csv"]

_READ = pyarrow.csv.ReadOptions(block_size=16 << 20)
_FAILED = re.compile(r"In CSV column #(\d+)")
_VALUE = re.compile(r"invalid value '(.*)'", re.DOTALL)
_WHOLE_NUMBER = r"^\s*[+-]?[0-9]{16,}\s*$"
"""Integers of so many digits that a float may round them."""

_MAX_DIGITS = 300  # of integers that floats hold
_MISSING_WORDS = frozenset(pyarrow.csv.ConvertOptions().null_values)
"""Texts that stand for missing values in columns of numbers and times."""

_LADDER = [
    pa.null(),
    pa.int64(),
    pa.uint64(),
    pa.float64(),
    pa.bool_(),
    pa.date32(),
    pa.time32("s"),
    pa.time64("us"),
    pa.time64("ns"),
    pa.timestamp("s"),
    pa.timestamp("us"),
    pa.timestamp("ns"),
    pa.timestamp("s", "UTC"),
    pa.timestamp("us", "UTC"),
    pa.timestamp("ns", "UTC"),
    pa.string(),
    pa.binary(),
]
"""Types of columns, in the order in which they are tried."""

_TEXT = _LADDER.index(pa.string())
_DATE, _TIME = "[0-9]{4}-[0-9]{2}-[0-9]{2}", "[0-9]{2}:[0-9]{2}:[0-9]{2}"
_SHAPES = {
    rf"^{_TIME}(\.[0-9]{{1,9}})?$": pa.time64("us"),
    rf"^{_DATE}[ T]{_TIME}(\.[0-9]{{1,6}})?$": pa.timestamp("us"),
    rf"^{_DATE}[ T]{_TIME}(\.[0-9]{{1,6}})?Z$": pa.timestamp("us", "UTC"),
}
"""Texts of times and moments that Arrow does not infer, since it knows nanoseconds only."""

_HEXADECIMAL = r"^\s*[+-]?0[xX]"
"""Texts that Arrow reads as integers, although they are codes or addresses as often."""

_SCANNED_BYTES = 16 << 20  # of a file at once


def open_csv(source: Source, stream: Any) -> pa.RecordBatchReader:
    """Open a CSV file.

    An empty field without quotes is null, and one with quotes is an empty string.

    Parameters
    ----------
    source : Source
        The file, which is read more than once.
    stream : binary file
        The same file, open at its beginning.

    Returns
    -------
    pyarrow.RecordBatchReader
        Integers that neither 64 bits nor a float hold are text.
    """
    types = _types_of(source)
    reader = _open(stream, {name: kind.read for name, kind in types.items()})
    schema = pa.schema([field.with_type(types[field.name].final) for field in reader.schema])

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            columns = [types[f.name].convert(c) for f, c in zip(schema, batch.columns, strict=True)]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


class _Kind:
    """Type of a column, which is read as such or as text that is converted afterwards.

    Parameters
    ----------
    step : int
        Position of the type in `_LADDER`.
    as_text : bool
        Whether the column is read as text, because it has words for missing values.
    """

    def __init__(self, step: int, *, as_text: bool = False) -> None:
        self.step = step
        self.final = _LADDER[step]
        self.as_text = as_text
        self.read = pa.string() if as_text else self.final

    @classmethod
    def inferred(cls, kind: pa.DataType) -> _Kind:
        """Return the first type to try for a column of an inferred type."""
        if pa.types.is_floating(kind):  # perhaps of integers above 2^63-1
            return cls(_LADDER.index(pa.int64()))
        if pa.types.is_timestamp(kind) and kind.unit == "ns":
            kind = pa.timestamp("us", kind.tz)
        return cls(_LADDER.index(kind) if kind in _LADDER else _TEXT)

    def convert(self, column: pa.Array) -> pa.Array:
        if not self.as_text:
            return column
        text = pc.utf8_trim_whitespace(column)
        is_missing = pc.is_in(text, value_set=pa.array(sorted(_MISSING_WORDS)))
        return pc.if_else(is_missing, pa.scalar(None, pa.string()), text).cast(self.final)

    def wider(self, value: str | None) -> _Kind | None:
        """Return the type to try after a value that does not fit; None after the last."""
        if value in _MISSING_WORDS and not self.as_text and self.step < _TEXT:
            return _Kind(self.step, as_text=True)
        return _Kind(self.step + 1) if self.step + 1 < len(_LADDER) else None


def _types_of(source: Source) -> dict[str, _Kind]:
    """Return the types that fit all rows of a file."""
    with source.open() as stream:
        reader = pyarrow.csv.open_csv(stream, _READ, _parse(has_blank_rows=False))
        schema = reader.schema
        first = next(iter(reader), None)
    names = schema.names
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise UnsupportedType(f"two columns have the name {name!r}", advice="rename one")
    types = {field.name: _Kind.inferred(field.type) for field in schema}
    for name, column in zip(names, () if first is None else first.columns, strict=False):
        if pa.types.is_floating(column.type) and _has_fraction(column):
            types[name] = _Kind(_LADDER.index(pa.float64()))
        elif pa.types.is_string(column.type):
            types[name] = _Kind(_step_of_texts(column))
    if ID_FIELD in types:
        types[ID_FIELD] = _Kind(_TEXT)
    while not _fit(source, types):
        pass
    for name in _of_empty_texts(source, types):
        types[name] = _Kind(_TEXT)
    reals = [name for name, kind in types.items() if pa.types.is_floating(kind.final)]
    for name in _inexact(source, reals):
        types[name] = _Kind(_TEXT)
    whole = [name for name, kind in types.items() if pa.types.is_integer(kind.final)]
    for name in _hexadecimal(source, whole):
        types[name] = _Kind(_TEXT)
    return types


def _step_of_texts(column: pa.Array) -> int:
    """Return the position in `_LADDER` of the type that all texts of a column have the shape of."""
    missing = pa.array(sorted(_MISSING_WORDS | {""}), column.type)
    texts = column.filter(pc.invert(pc.is_in(column, value_set=missing)))
    for shape, kind in _SHAPES.items():
        if len(texts) and pc.all(pc.match_substring_regex(texts, shape)).as_py():
            return _LADDER.index(kind)
    return _TEXT


def _hexadecimal(source: Source, names: list[str]) -> Iterator[str]:
    """Yield the columns with an integer in hexadecimal digits."""
    if not names or not _may_have_hexadecimal(source):
        return
    found: set[str] = set()
    with source.open() as stream:
        for batch in _open(stream, dict.fromkeys(names, pa.string()), names):
            for name, column in zip(names, batch.columns, strict=True):
                if pc.any(pc.match_substring_regex(column, _HEXADECIMAL)).as_py():
                    found.add(name)
    yield from found


def _may_have_hexadecimal(source: Source) -> bool:
    before = b""
    with source.open() as stream:
        while block := stream.read(_SCANNED_BYTES):
            seen = before + block
            if b"0x" in seen or b"0X" in seen:
                return True
            before = block[-1:]
    return False


def _has_fraction(column: pa.Array) -> bool:
    """Return whether a column has a number that is no integer, so that no integer type fits."""
    return bool(pc.any(pc.not_equal(pc.floor(column), column)).as_py())


def _fit(source: Source, types: dict[str, _Kind]) -> bool:
    """Return whether all rows fit; else, replace the type of a column by a wider one."""
    with source.open() as stream:
        try:
            for batch in _open(stream, {name: kind.read for name, kind in types.items()}):
                for kind, column in zip(list(types.values()), batch.columns, strict=True):
                    if not _converts(kind, column):
                        name = next(name for name, other in types.items() if other is kind)
                        types[name] = _Kind(kind.step + 1)
                        return False
        except pa.ArrowInvalid as error:
            failed = _FAILED.search(str(error))
            if failed is None:
                raise
            name = list(types)[int(failed[1])]
            value = _VALUE.search(str(error))
            wider = types[name].wider(None if value is None else value[1])
            if wider is None:
                raise
            types[name] = wider
            return False
    return True


def _of_empty_texts(source: Source, types: dict[str, _Kind]) -> set[str]:
    """Return the columns whose values are all null or empty texts, as texts with quotes are."""
    found = {name for name, kind in types.items() if kind.as_text}
    if found:
        with source.open() as stream:
            for batch in _open(stream, {name: kind.read for name, kind in types.items()}):
                found = {name for name in found if not _has_text(batch[name])}
    return found


def _has_text(column: pa.Array) -> bool:
    return bool(pc.any(pc.not_equal(column, "")).as_py())


def _converts(kind: _Kind, column: pa.Array) -> bool:
    try:
        kind.convert(column)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return True


def _inexact(source: Source, names: list[str]) -> Iterator[str]:
    """Yield the columns with an integer that a float rounds."""
    if not names:
        return
    found: set[str] = set()
    with source.open() as stream:
        for batch in _open(stream, dict.fromkeys(names, pa.string()), names):
            for name, column in zip(names, batch.columns, strict=True):
                if name not in found:
                    whole = column.filter(pc.match_substring_regex(column, _WHOLE_NUMBER))
                    if not all(map(_is_exact, whole.to_pylist())):
                        found.add(name)
    yield from found


def _is_exact(text: str) -> bool:
    """Return whether a float holds the integer of a text."""
    return len(text) < _MAX_DIGITS and int(float(text)) == int(text)


def _parse(*, has_blank_rows: bool) -> pyarrow.csv.ParseOptions:
    """Return the options for parsing; a blank line is a row of a file with one column."""
    return pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=not has_blank_rows)


def _open(
    stream: Any, types: dict[str, pa.DataType], columns: list[str] | None = None
) -> pyarrow.csv.CSVStreamingReader:
    options = pyarrow.csv.ConvertOptions(
        column_types=types,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        include_columns=columns,
    )
    parse = _parse(has_blank_rows=columns is None and len(types) == 1)
    return pyarrow.csv.open_csv(stream, _READ, parse, options)
