"""Commands for files: info, schema, head, cat, export, import, copy, verify."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import click
import pyarrow as pa

import godb_arrow
from godb_arrow import codec
from godb_arrow.cli.command import main
from godb_arrow.cli.options import (
    DAMAGED,
    collection_option,
    columns_option,
    common_options,
    compression_option,
    if_exists_option,
    parse_conditions,
    progress,
    split_names,
    where_option,
)
from godb_arrow.codec.compression import check_compression
from godb_arrow.connectors.etl.base import counted
from godb_arrow.connectors.etl.files import FORMATS, export_file, format_of, open_file
from godb_arrow.directory.names import file_name
from godb_arrow.directory.verify import inspect_godb
from godb_arrow.display import quantity
from godb_arrow.documents.json_lines import json_lines
from godb_arrow.errors import InvalidOption
from godb_arrow.options import CompressionName
from godb_arrow.replication.verify import verify_godb

__all__ = ["schema_lines"]


@main.command()
@click.argument("file")
@common_options
def info(file: str, quiet: bool) -> None:
    """Show a file's header, collections, sizes and schemas.

    \b
    Example:
      godb-arrow info users.godb
    """
    report = inspect_godb(file)
    assert report.header is not None
    click.echo(f"{file}")
    click.echo(f"  format       version {report.header.version}, flags {report.header.flags}")
    compression = report.header.compression
    name = next((c.hint.compression for c in report.collections if c.hint), compression.name)
    if check_compression(name).flags != report.header.flags:
        name = compression.name  # The hint is about the next save.
    click.echo(f"  compression  {name}; read by {', '.join(compression.readers)}")
    if report.size is not None:
        ratio = report.body_size / max(report.size - 8, 1)
        sizes = f"{quantity(report.size)} on disk, {quantity(report.body_size)} of MessagePack"
        click.echo(f"  size         {sizes}, ratio {ratio:.1f}")
    written = "godb_arrow (sealed)" if report.sealed else "another program"
    click.echo(f"  written by   {written}, {'with' if report.checksum else 'without'} checksum")
    if report.others:
        click.echo(f"  other keys   {', '.join(sorted(report.others))}")
    click.echo(f"  codec        {codec.BACKEND}")
    if codec.BACKEND == "reference":
        click.echo(
            "godb-arrow: warning: reading and writing are many times slower without the compiled "
            "kernel; install a wheel, or install with a C++ compiler",
            err=True,
        )
    for collection in report.collections:
        size = quantity(collection.size)
        click.echo(f"\n  {collection.name!r}: {collection.count:,} documents, {size}")
        for line in schema_lines(godb_arrow.read_schema(file, collection.name)):
            click.echo(f"    {line}")


def schema_lines(schema: pa.Schema) -> list[str]:
    """Return one line for each field of a schema."""
    width = max((len(name) for name in schema.names), default=0)
    return [f"{field.name:<{width}}  {_type_name(field.type)}" for field in schema]


def _type_name(data_type: pa.DataType) -> str:
    return "json" if isinstance(data_type, pa.JsonType) else str(data_type)


@main.command()
@click.argument("file")
@collection_option
@common_options
def schema(file: str, collection: str | None, quiet: bool) -> None:
    """Show the Arrow schema of a collection, over all its documents.

    \b
    Example:
      godb-arrow schema shop.godb -c orders
    """
    for line in schema_lines(godb_arrow.read_schema(file, collection)):
        click.echo(line)


@main.command()
@click.argument("file")
@collection_option
@columns_option
@click.option(
    "--rows",
    "-n",
    default=5,
    show_default=True,
    type=click.IntRange(1),
    help="Number of documents.",
)
@common_options
def head(file: str, collection: str | None, columns: str | None, rows: int, quiet: bool) -> None:
    """Show the first documents as a table.

    \b
    Example:
      godb-arrow head users.godb -n 3 --columns name,city
    """
    import pandas as pd

    frames = godb_arrow.read_godb(
        file,
        collection,
        columns=split_names(columns),
        chunksize=rows,
        sample=rows,
        on_mismatch="null",
        dtype_backend="pyarrow",
    )
    with pd.option_context(
        "display.max_columns", None, "display.width", None, "display.max_colwidth", 40
    ):
        frame = next(frames, None)
        click.echo("no documents" if frame is None else frame.to_string(index=False))


@main.command()
@click.argument("file")
@collection_option
@click.option("--limit", "-n", type=click.IntRange(0), help="Stop after this many documents.")
@click.option(
    "--plain",
    is_flag=True,
    help="Write timestamps as text and binary as base64, for programs that know only JSON.",
)
@common_options
def cat(file: str, collection: str | None, limit: int | None, plain: bool, quiet: bool) -> None:
    """Write documents to standard output as NDJSON, one on each line, as they are stored.

    Values without a form in JSON become objects such as {"$time": …}, which "import" reads again.
    With --plain they are simple text.

    \b
    Example:
      godb-arrow cat users.godb | head -n 3
    """
    runs = godb_arrow.open_godb(file, collection).stored_entries()
    out = sys.stdout.buffer
    for lines, _ in json_lines(runs if limit is None else _first(runs, limit), plain=plain):
        out.write(lines)
    out.flush()


def _first(runs: Iterator[codec.Entries], count: int) -> Iterator[codec.Entries]:
    """Yield the first documents of runs."""
    for run in runs:
        if count <= 0:
            return
        yield run.between(0, min(count, len(run)))
        count -= len(run)


@main.command()
@click.argument("file")
@click.argument("target")
@click.option(
    "--collection", "-c", multiple=True, help="Name of a collection. Can be repeated. Default: all."
)
@columns_option
@where_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(sorted(set(FORMATS.values()))),
    help="Format of the target. Default: by its extension.",
)
@common_options
def export(
    file: str,
    target: str,
    collection: tuple[str, ...],
    columns: str | None,
    where: tuple[str, ...],
    format_: str | None,
    quiet: bool,
) -> None:
    """Write collections to Parquet, Arrow IPC, CSV or NDJSON files.

    With several collections, TARGET must have {collection} in its name.

    \b
    Examples:
      godb-arrow export users.godb users.parquet
      godb-arrow export shop.godb 'out/{collection}.parquet'
      godb-arrow export users.godb berlin.csv --where city=Berlin --columns name,age
    """
    counts = godb_arrow.list_collections(file)
    names = list(collection) or list(counts)
    if len(names) > 1 and "{collection}" not in target:
        raise InvalidOption(
            f"{file} has {len(names)} collections ({', '.join(map(repr, names[:10]))}), but there "
            "is one target",
            advice="choose one with --collection, or put {collection} into the target's name",
        )
    for name in names:
        path = target.replace("{collection}", file_name(name))
        reader = godb_arrow.scan_godb(
            file, name, columns=split_names(columns), filter=parse_conditions(where)
        )
        with progress(counts.get(name), " documents", quiet) as update:
            rows = export_file(reader, path, format=format_, progress=update)
        if not quiet:
            click.echo(f"{path}: {rows:,} rows", err=True)


@main.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.argument("file")
@click.option("--collection", "-c", help="Name of the collection. Default: the source's name.")
@click.option("--id", "id_column", help="Field with the document ids.")
@if_exists_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(sorted(set(FORMATS.values()))),
    help="Format of the sources. Default: by their extension.",
)
@compression_option
@common_options
def import_(
    sources: tuple[str, ...],
    file: str,
    collection: str | None,
    id_column: str | None,
    if_exists: Any,
    format_: str | None,
    compression: CompressionName,
    quiet: bool,
) -> None:
    """Write Parquet, Arrow IPC, CSV or NDJSON files into a GODB file, a collection for each.

    Other collections of FILE are unchanged.

    \b
    Examples:
      godb-arrow import users.parquet users.godb
      godb-arrow import users.csv orders.ndjson shop.godb
      godb-arrow import more.csv users.godb -c users --if-exists append
    """
    for source in sources:
        stem = os.path.splitext(os.path.basename(source))[0]
        name = collection if collection is not None else stem
        if format_ is None:
            format_of(source)
        with (
            open_file(source, format=format_) as data,
            progress(None, " documents", quiet) as update,
        ):
            rows = godb_arrow.write_godb(
                counted(data, update),
                file,
                name,
                id_column=id_column,
                if_exists=if_exists,
                compression=compression,
            )
        if not quiet:
            click.echo(f"{file}: {rows:,} documents in {name!r}", err=True)


@main.command()
@click.argument("source")
@click.argument("target")
@columns_option
@where_option
@if_exists_option
@click.option("--id", "id_column", help="Field with the document ids. Default: _id.")
@click.option(
    "--partition-by", help="Columns that partition a folder or table, separated by commas."
)
@click.option(
    "--batch-size", type=click.IntRange(1), help="Maximum number of documents in a record batch."
)
@click.option("--format", "format_", help="Format of the target. Default: by its name.")
@common_options
def copy(
    source: str,
    target: str,
    columns: str | None,
    where: tuple[str, ...],
    if_exists: Any,
    id_column: str | None,
    partition_by: str | None,
    batch_size: int | None,
    format_: str | None,
    quiet: bool,
) -> None:
    """Copy between GODB, Parquet, Arrow, CSV, NDJSON, BSON, Delta tables and databases.

    SOURCE and TARGET are paths or URLs, with #NAME where a file, data directory or database has
    several collections or tables. If copying fails, the target is unchanged.

    \b
    Examples:
      godb-arrow copy shop.godb#orders orders.parquet --columns total,user.geo.cc
      godb-arrow copy dump/shop/orders.bson shop.godb#orders
      godb-arrow copy users.ndjson sqlite:///shop.db#users --if-exists upsert
      godb-arrow copy s3://bucket/users.godb lake/users --partition-by city
      godb-arrow copy data#users users-table --format delta
    """
    from godb_arrow.connectors.etl import pipeline

    summary = pipeline.copy(
        source,
        target,
        columns=split_names(columns),
        filter=parse_conditions(where),
        if_exists=if_exists,
        id_column=id_column,
        partition_by=split_names(partition_by) or (),
        batch_size=batch_size,
        format=format_,
        progress=not quiet and sys.stderr.isatty(),
    )
    if not quiet:
        click.echo(str(summary), err=True)


@main.command()
@click.argument("sources", metavar="PATHS...", nargs=-1, required=True)
@common_options
def verify(sources: tuple[str, ...], quiet: bool) -> None:
    """Check every byte of files, data directories and backups.

    Of a data directory, manifests, id files and the journal are checked, too. The exit status is
    1 if there is any damage.

    \b
    Examples:
      godb-arrow verify users.godb
      godb-arrow verify data backups
    """
    damaged = False
    for source in sources:
        with progress(None, " documents", quiet) as update:
            report = verify_godb(source, progress=update)
        for problem in report.problems:
            click.echo(problem if source in problem else f"{source}: {problem}", err=True)
        for note in report.notes if not quiet else ():
            click.echo(f"{source}: note: {note}", err=True)
        damaged = damaged or not report.ok
        if report.ok and not quiet:
            documents = sum(collection.count for collection in report.collections)
            checksum = "checksums match" if report.checksum else "no checksum in the file"
            click.echo(f"{source}: valid, {documents:,} documents, {checksum}")
    if damaged:
        sys.exit(DAMAGED)
