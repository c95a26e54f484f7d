"""Commands that convert files: export, import, copy."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import click

import godb_arrow
from godb_arrow.cli.command import main
from godb_arrow.cli.options import (
    columns_option,
    common_options,
    compression_option,
    echo,
    format_options,
    if_exists_option,
    no_hints_option,
    parse_conditions,
    parse_options,
    progress,
    reading_options,
    split_names,
    where_option,
)
from godb_arrow.connectors.etl.base import Documents, Target, counted
from godb_arrow.connectors.etl.files import export_documents, export_file, open_file
from godb_arrow.connectors.etl.formats import check_format, format_of, is_document_format
from godb_arrow.directory.names import file_name
from godb_arrow.directory.places import is_data_directory
from godb_arrow.display import plural
from godb_arrow.engine.places import opened
from godb_arrow.errors import InvalidOption
from godb_arrow.options import CompressionName
from godb_arrow.storage.local import make_folders
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.several import named_collection


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
    help="Format of the target, such as parquet. Default: by its extension.",
)
@format_options
@no_hints_option
@common_options
def export(
    file: str,
    target: str,
    collection: tuple[str, ...],
    columns: str | None,
    where: tuple[str, ...],
    format_: str | None,
    format_option: tuple[str, ...],
    no_hints: bool,
    quiet: bool,
) -> None:
    """Write collections to files of another format, such as Parquet, CSV, NDJSON or Avro.

    FILE is a file, a data directory, or several files as in 'logs/*.godb'. With several
    collections, TARGET must have {collection} in its name, and its folder is made if it is missing.
    NDJSON without --columns has the documents as they are stored, and can be imported again without
    loss.

    \b
    Examples:
      godb-arrow export users.godb users.parquet
      godb-arrow export shop.godb 'out/{collection}.parquet'
      godb-arrow export users.godb berlin.csv --where city=Berlin --columns name,age
    """
    options = parse_options(format_option)
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
        if path != target and not is_url(path):
            make_folders(os.path.dirname(os.path.abspath(os.path.expanduser(path))))
        chosen, filter_ = split_names(columns), parse_conditions(where)
        with (
            opened(file, name, reading_options(no_hints), None) as handle,
            progress(counts.get(name), " documents", quiet) as update,
        ):
            if chosen is None and is_document_format(check_format(path, format_)):
                mapped = getattr(handle, "map_entries", None) if filter_ is None else None
                entries = handle.stored_entries(filter_)
                documents = Documents(partial(getattr, handle, "stored_schema"), entries, mapped)
                rows = export_documents(
                    documents, path, format=format_, progress=update, options=options
                )
            else:
                reader = handle.stream_batches(chosen, filter_)
                rows = export_file(reader, path, format=format_, progress=update, options=options)
        if not quiet:
            echo(f"{path}: {plural(rows, 'row')}", err=True)


@main.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.argument("file")
@click.option("--collection", "-c", help="Name of the collection. Default: the source's name.")
@click.option("--id", "id_column", help="Field with the document ids.")
@if_exists_option
@click.option(
    "--format",
    "format_",
    help="Format of the sources, such as csv. Default: by their extension.",
)
@format_options
@click.option(
    "--extended-json",
    "extended",
    is_flag=True,
    help="NDJSON has values of MongoDB's extended JSON, as from mongoexport.",
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
    format_option: tuple[str, ...],
    extended: bool,
    compression: CompressionName,
    quiet: bool,
) -> None:
    """Write files of another format into a GODB file or data directory, a collection for each.

    Other collections of FILE are unchanged. FILE may name the collection, as in data#users.

    \b
    Examples:
      godb-arrow import users.parquet users.godb
      godb-arrow import users.csv orders.ndjson shop.godb
      godb-arrow import more.csv users.godb -c users --if-exists append
      godb-arrow import users.csv data#users
    """
    place, collection = named_collection(file, collection)
    is_directory = is_data_directory(place)
    if is_directory and compression != "lz4":
        raise InvalidOption(
            "a data directory keeps the compression of its collections",
            advice="omit --compression; change it with collection.set_compression",
        )
    for source in sources:
        stem = os.path.basename(source).partition(".")[0]
        name = collection if collection is not None else stem
        if format_ is None:
            format_of(source)
        with (
            open_file(
                source, format=format_, extended=extended, options=parse_options(format_option)
            ) as data,
            progress(None, " documents", quiet) as update,
        ):
            if is_directory:
                from godb_arrow.connectors.etl.directories import EngineTarget

                rows = _import_into(
                    data, update, EngineTarget(file, place, name, id_column), if_exists
                )
            else:
                rows = godb_arrow.write_godb(
                    counted(data, update),
                    place,
                    name,
                    id_column=id_column,
                    if_exists=if_exists,
                    compression=compression,
                )
        if not quiet:
            echo(f"{place}: {plural(rows, 'document')} in {name!r}", err=True)


def _import_into(data: Any, update: Callable[[int], object], target: Target, if_exists: Any) -> int:
    """Write documents to a collection of a data directory; return their number."""
    rows = 0

    def note(more: int) -> None:
        nonlocal rows
        rows += more
        update(more)

    if if_exists == "error" and target.exists():
        raise target.refuse_existing()
    target.write(counted(data, note), if_exists)
    return rows


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
@click.option(
    "--incremental", is_flag=True, help="Copy only what changed since the last such copy."
)
@format_options
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
    incremental: bool,
    format_option: tuple[str, ...],
    quiet: bool,
) -> None:
    """Copy between GODB, Parquet, Arrow, CSV, NDJSON, Avro, Protobuf, BSON, Delta and databases.

    SOURCE and TARGET are paths or URLs, with #NAME where a file, data directory or database has
    several collections or tables. If copying fails, the target is unchanged.

    \b
    Examples:
      godb-arrow copy shop.godb#orders orders.parquet --columns total,user.geo.cc
      godb-arrow copy dump/shop/orders.bson shop.godb#orders
      godb-arrow copy users.ndjson sqlite:///shop.db#users --if-exists upsert
      godb-arrow copy s3://bucket/users.godb lake/users --partition-by city
      godb-arrow copy data#users users-table --format delta
      godb-arrow copy data#users sqlite:///shop.db#users --incremental
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
        format_options=parse_options(format_option),
        progress=not quiet and sys.stderr.isatty(),
        mode="sync" if incremental else "copy",
    )
    if not quiet:
        echo(str(summary), err=True)
