"""Commands that show documents and their types: schema, head, cat."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import click
import pyarrow as pa

import godb_arrow
from godb_arrow import codec
from godb_arrow.cli.command import main
from godb_arrow.cli.options import (
    collection_option,
    columns_option,
    common_options,
    echo,
    no_hints_option,
    parse_conditions,
    reading_options,
    split_names,
    where_option,
)
from godb_arrow.display import printable
from godb_arrow.documents.json_lines import json_lines, lines_of, terminal_lines
from godb_arrow.engine.places import opened
from godb_arrow.file.collection import FileCollection
from godb_arrow.options import ReadKeywords
from godb_arrow.query.python_values import python_values

__all__ = ["schema_lines", "table_lines"]

_MAX_CELL = 40  # characters of a value in a table
_MAX_ROWS = 1 << 31  # that head shows


def schema_lines(schema: pa.Schema) -> list[str]:
    """Return one line for each field of a schema."""
    names = [printable(name) for name in schema.names]
    width = max(map(len, names), default=0)
    kinds = [printable(_type_name(field.type)) for field in schema]
    return [f"{name:<{width}}  {kind}" for name, kind in zip(names, kinds, strict=True)]


def _type_name(data_type: pa.DataType) -> str:
    return "json" if isinstance(data_type, pa.JsonType) else str(data_type)


@main.command()
@click.argument("file")
@collection_option
@no_hints_option
@common_options
def schema(file: str, collection: str | None, no_hints: bool, quiet: bool) -> None:
    """Show the Arrow schema of a collection, over all its documents.

    FILE is a file, a data directory as in data#users, or several files as in 'logs/*.godb'.

    \b
    Examples:
      godb-arrow schema shop.godb -c orders
      godb-arrow schema data#users
    """
    found = godb_arrow.read_schema(file, collection, **reading_options(no_hints))
    for line in schema_lines(found):
        echo(line)


@main.command()
@click.argument("file")
@collection_option
@columns_option
@where_option
@click.option(
    "--rows",
    "-n",
    default=5,
    show_default=True,
    type=click.IntRange(1, _MAX_ROWS),
    help="Number of documents.",
)
@no_hints_option
@common_options
def head(
    file: str,
    collection: str | None,
    columns: str | None,
    where: tuple[str, ...],
    rows: int,
    no_hints: bool,
    quiet: bool,
) -> None:
    """Show the first documents as a table.

    FILE is a file, a data directory as in data#users, or several files as in 'logs/*.godb'.

    \b
    Examples:
      godb-arrow head users.godb -n 3 --columns name,city
      godb-arrow head data#users --where 'age>=30'
    """
    names, condition = split_names(columns), parse_conditions(where)
    options: ReadKeywords = {"batch_size": rows, **reading_options(no_hints)}
    if condition is None:
        options |= {"sample": rows, "on_mismatch": "null"}
    with opened(file, collection, options, None) as handle:
        is_file = isinstance(handle, FileCollection)
        with handle.stream_batches(names, condition, **(options if is_file else {})) as reader:
            found = pa.Table.from_batches(_first_batches(reader, rows), reader.schema)
    for line in table_lines(found) if len(found) else ["no documents"]:
        echo(line)


def _first_batches(reader: pa.RecordBatchReader, count: int) -> Iterator[pa.RecordBatch]:
    """Yield the first rows of a reader."""
    for batch in reader:
        yield batch.slice(0, count)
        count -= batch.num_rows
        if count <= 0:
            return


def table_lines(table: pa.Table) -> list[str]:
    """Return a table as lines of text, with a heading and one line for each row."""
    columns = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        cells = [_shown(name), *map(_shown, python_values(column))]
        width = max(map(len, cells))
        is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        columns.append([c.rjust(width) if is_number else c.ljust(width) for c in cells])
    return ["  ".join(cells).rstrip() for cells in zip(*columns, strict=True)]


def _shown(value: Any) -> str:
    """Return a value as text of bounded width, without control characters."""
    text = "<NA>" if value is None else str(value)
    plain = printable(text[: _MAX_CELL + 1])
    return plain if len(plain) <= _MAX_CELL else f"{plain[: _MAX_CELL - 3]}..."


@main.command()
@click.argument("file")
@collection_option
@where_option
@click.option("--limit", "-n", type=click.IntRange(0), help="Stop after this many documents.")
@click.option(
    "--plain",
    is_flag=True,
    help="Write timestamps as text and binary as base64, for programs that know only JSON.",
)
@no_hints_option
@common_options
def cat(
    file: str,
    collection: str | None,
    where: tuple[str, ...],
    limit: int | None,
    plain: bool,
    no_hints: bool,
    quiet: bool,
) -> None:
    """Write documents to standard output as NDJSON, one on each line, as they are stored.

    FILE is a file, a data directory as in data#users, or several files as in 'logs/*.godb'. Values
    without a form in JSON become objects such as {"$time": …}, which "import" reads again. With
    --plain they are simple text.

    \b
    Examples:
      godb-arrow cat users.godb | head -n 3
      godb-arrow cat data#users --where 'age>30' --where city=Rome
    """
    out = sys.stdout.buffer
    with opened(file, collection, reading_options(no_hints), None) as handle:
        filter_ = parse_conditions(where)
        if limit is None and filter_ is None:
            written = lines_of(handle, plain=plain)
        else:
            runs = handle.stored_entries(filter_)
            written = json_lines(runs if limit is None else _first(runs, limit), plain=plain)
        for lines, _ in written:
            out.write(terminal_lines(lines))
    out.flush()


def _first(runs: Iterator[codec.Entries], count: int) -> Iterator[codec.Entries]:
    """Yield the first documents of runs."""
    for run in runs:
        if count <= 0:
            return
        yield run.between(0, min(count, len(run)))
        count -= len(run)
