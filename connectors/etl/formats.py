"""Formats of files by name and extension, with the formats that other packages add."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any, BinaryIO, Literal, NamedTuple, cast

import pyarrow as pa

from godb_arrow.errors import GodbError, InvalidDocument, InvalidOption
from godb_arrow.extensions import extension, extension_names, unknown_name
from godb_arrow.storage.object_store import without_query
from godb_arrow.storage.source import Source, spool

__all__ = [
    "COMPRESSED_NAMES",
    "FORMATS",
    "AddedFormat",
    "added_format",
    "check_format",
    "check_options",
    "chosen_options",
    "compressed",
    "compression_of_name",
    "decompressed",
    "decompressed_file",
    "format_names",
    "format_of",
    "has_format",
    "is_document_format",
]

_GROUP = "godb_arrow.formats"

FORMATS: dict[str, str] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "ipc",
    ".feather": "ipc",
    ".ipc": "ipc",
    ".csv": "csv",
    ".ndjson": "ndjson",
    ".jsonl": "ndjson",
    ".json": "json",
    ".bson": "bson",
    ".avro": "avro",
    ".protobuf": "protobuf",
}
"""Built-in formats by file name extension."""

_DOCUMENT_FORMATS = frozenset({"ndjson", "json", "bson", "protobuf"})
_TEXT_FORMATS = frozenset({"csv", "ndjson", "json"})
COMPRESSED_NAMES = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Compressions of text files by the last extension."""

Verb = Literal["read", "write"]

_MODULES = {"avro": "avro", "protobuf": "protobuf"}
_SPREADSHEETS = {
    ".xlsx": "openpyxl", ".xlsm": "openpyxl", ".xls": "xlrd", ".xlsb": "pyxlsb", ".ods": "odfpy",
}  # fmt: skip


class AddedFormat(NamedTuple):
    """Format with functions of its own.

    Attributes
    ----------
    name : str
        Name of the format.
    kind : {"documents", "columns"}
        Whether files have documents, or columns of one schema.
    read : callable or None
        Function of a binary file and its name. It returns an iterator of dicts, or a
        ``pyarrow.RecordBatchReader``.
    write : callable or None
        Function of a binary file and data of the same kind.
    """

    name: str
    kind: Literal["documents", "columns"]
    read: Callable[..., Any] | None
    write: Callable[..., Any] | None

    def opened(self, stream: BinaryIO, name: str, options: Mapping[str, Any]) -> Any:
        """Return the content of a file, whose errors are errors of godb_arrow."""
        if self.read is None:
            raise InvalidOption(f"the format {self.name} cannot be read", advice="choose another")
        with _errors_of(self.name, "read"):
            content = self.read(stream, name, **options)
        if isinstance(content, pa.RecordBatchReader):
            return pa.RecordBatchReader.from_batches(content.schema, self._guarded(content, "read"))
        return self._guarded(content, "read")

    def _guarded(self, items: Any, verb: str) -> Iterator[Any]:
        with _errors_of(self.name, verb):
            yield from items

    def written(self, stream: BinaryIO, data: Any, options: Mapping[str, Any]) -> None:
        """Write a file, whose errors are errors of godb_arrow."""
        if self.write is None:
            raise InvalidOption(
                f"the format {self.name} cannot be written", advice="choose another"
            )
        with _errors_of(self.name, "written"):
            self.write(stream, data, **options)


@contextmanager
def _errors_of(format: str, verb: str) -> Iterator[None]:
    try:
        yield
    except GodbError:
        raise
    except OSError as error:
        # Decompressors raise it without the number of an error of the operating system.
        if verb != "read" or type(error) is not OSError or error.errno is not None:
            raise
        raise _damaged(format, verb, error) from error
    except TypeError as error:
        if "keyword" not in str(error):
            raise InvalidDocument(f"{format} cannot be {verb}: {error}") from error
        raise InvalidOption(
            f"an option of {format} is wrong or missing: {error}",
            advice="give the options of the format with format_options",
        ) from error
    except Exception as error:  # Another package may raise anything for damaged bytes.
        raise _damaged(format, verb, error) from error


def _damaged(format: str, verb: str, error: Exception) -> InvalidDocument:
    return InvalidDocument(
        f"the file cannot be {verb} as {format}: {type(error).__name__}: {error}",
        advice="check the file, or give another format",
    )


def added_format(name: str) -> AddedFormat | None:
    """Return a format with functions of its own, by its name; None for any other.

    Raises
    ------
    InvalidOption
        The object of another package lacks an attribute.
    MissingDependency
        The library of the format is not installed.
    """
    if name in _MODULES:
        added: Any = import_module(f"godb_arrow.connectors.etl.{_MODULES[name]}")
    else:
        added = None if name in FORMATS.values() else extension(_GROUP, name)
    if added is None:
        return None
    kind = getattr(added, "kind", None)
    functions = [getattr(added, verb, None) for verb in ("read", "write")]
    if kind not in ("documents", "columns") or not any(map(callable, functions)):
        raise InvalidOption(
            f"the extension {name!r} is no format",
            advice='it needs a kind, "documents" or "columns", and functions read and write',
        )
    return AddedFormat(name, kind, *functions)


# --- options -----------------------------------------------------------------------------------


def chosen_options(format: str, options: Mapping[str, Any], verb: Verb) -> dict[str, Any]:
    """Return the options that a format has for reading or writing."""
    if not options:
        return {}
    names = _option_names(format, verb)
    return {name: value for name, value in options.items() if names is None or name in names}


def _option_names(format: str, verb: Verb) -> list[str] | None:
    """Return the names of a format's options; None for a format that takes any."""
    added = added_format(format)
    function = None if added is None else getattr(added, verb)
    if function is None:
        return []
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # The function is not written in Python.
        return None
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters):
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    fixed = [one.name for one in parameters if one.kind in positional][:2]  # the file and the data
    kinds = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in kinds and one.name not in fixed]


def check_options(options: Mapping[str, Any], *sides: tuple[str | None, Verb]) -> None:
    """Check that a format takes each option, for reading or writing.

    Raises
    ------
    InvalidOption
        No format has one of the options.
    """
    formats = [(format, verb) for format, verb in sides if format is not None]
    for option in options:
        taken = [_option_names(format, verb) for format, verb in formats]
        if any(names is None or option in names for names in taken):
            continue
        known = sorted({name for names in taken for name in names or ()})
        shown = " or ".join(dict.fromkeys(format for format, _ in formats))
        raise InvalidOption(
            f"{option!r} is no option of {shown or 'these places'}",
            advice=f"use {', '.join(known)}" if known else "omit format_options",
        )


# --- names -------------------------------------------------------------------------------------


def format_names() -> list[str]:
    """Return the names of all formats."""
    return [*dict.fromkeys(FORMATS.values()), *extension_names(_GROUP)]


def is_document_format(name: str) -> bool:
    """Return whether a format has documents, rather than columns."""
    if name in FORMATS.values():
        return name in _DOCUMENT_FORMATS
    added = added_format(name)
    return added is not None and added.kind == "documents"


def _split(name: str) -> tuple[str, str | None]:
    """Return the extension of a format, and of a compression after it, in a file name."""
    stem, last = os.path.splitext(without_query(name))
    if last.lower() in COMPRESSED_NAMES:
        return os.path.splitext(stem)[1].lower(), last.lower()
    return last.lower(), None


def _by_extension(end: str) -> str | None:
    if end in FORMATS:
        return FORMATS[end]
    for name in extension_names(_GROUP):
        if end in getattr(extension(_GROUP, name), "extensions", (f".{name}",)):
            return name
    return None


def has_format(name: str) -> bool:
    """Return whether a file name has the extension of a format."""
    return bool(_split(name)[0]) and _by_extension(_split(name)[0]) is not None


def format_of(path: str | os.PathLike[str]) -> str:
    """Return the format of a file by its name.

    Raises
    ------
    InvalidOption
        No format has the extension.

    Examples
    --------
    >>> format_of("users.parquet"), format_of("users.ndjson.gz")
    ('parquet', 'ndjson')
    """
    name = os.fspath(path)
    end, compressed = _split(name)
    if end in _SPREADSHEETS:
        raise InvalidOption(
            f"{name!r} is a spreadsheet, which godb_arrow does not read",
            advice=f"read it with pandas.read_excel (which needs {_SPREADSHEETS[end]}), and write "
            "the DataFrame with write_godb",
        )
    format = _by_extension(end)
    if format is None:
        raise InvalidOption(
            f"the name {name!r} has no extension of a known format",
            advice=f"end the name in .godb, {', '.join(FORMATS)}, or name the format",
        )
    if compressed is not None and format not in _TEXT_FORMATS:
        raise InvalidOption(
            f"the name {name!r} is a compressed {format} file, and {format} compresses itself",
            advice=f"write it without {compressed}",
        )
    return format


def check_format(path: str | os.PathLike[str], format: str | None) -> str:
    """Return the format of a file, by its name unless it is given.

    Raises
    ------
    InvalidOption
        There is no such format.
    """
    if format is None:
        return format_of(path)
    if format not in FORMATS.values() and format not in extension_names(_GROUP):
        raise unknown_name("format", format, format_names())
    return format


def compression_of_name(path: str | os.PathLike[str]) -> str | None:
    """Return the compression of a text file by its name; None for no compression."""
    compressed = _split(os.fspath(path))[1]
    return None if compressed is None else COMPRESSED_NAMES[compressed]


def decompressed(stream: BinaryIO, name: str) -> BinaryIO:
    """Return a stream of the content of a text file, which may be compressed."""
    compression = compression_of_name(name)
    if compression is None:
        return stream
    opened: BinaryIO = pa.CompressedInputStream(pa.PythonFile(stream, "r"), compression)
    return opened


@contextmanager
def decompressed_file(source: Source) -> Iterator[BinaryIO]:
    """Open a temporary file with the content of a compressed text file."""
    with spool() as file, source.open() as stream:
        text = decompressed(stream, source.name)
        for piece in iter(lambda: text.read(1 << 20), b""):
            file.write(piece)
        file.seek(0)
        yield cast(BinaryIO, file)


@contextmanager
def compressed(stream: BinaryIO, name: str) -> Iterator[BinaryIO]:
    """Open a stream that compresses a text file by its name."""
    compression = compression_of_name(name)
    if compression is None:
        yield stream
        return
    sink = pa.PythonFile(stream, "w")
    with pa.CompressedOutputStream(sink, compression) as opened:
        yield opened
