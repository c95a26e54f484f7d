"""The ``godb-arrow`` command: what the library does, verb for verb."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast, get_args

import click
import pyarrow as pa

import godb_arrow
from godb_arrow import codec
from godb_arrow._version import __version__
from godb_arrow.codec.compression import check_compression
from godb_arrow.codec.jsontext import from_json_text, to_json_text
from godb_arrow.connectors.files import FORMATS, export_file, format_of, open_file
from godb_arrow.display import progress_bar, quantity
from godb_arrow.errors import GodbError, InvalidOption
from godb_arrow.options import CompressionName, parse_duration, parse_size
from godb_arrow.samples import FLIGHTS
from godb_arrow.storage.source import file_name
from godb_arrow.verify import inspect_godb, verify_godb

__all__ = ["main"]

DAMAGED = 1
FAILED = 2

_Command = TypeVar("_Command", bound=Callable[..., Any])


def _common(command: _Command) -> _Command:
    """The options that every command has, and how errors are shown."""

    @click.option("--quiet", "-q", is_flag=True, help="No progress bar and no summary.")
    @click.option("--debug", is_flag=True, help="Show the traceback of an error.")
    @wraps(command)
    def run(*arguments: Any, debug: bool, **options: Any) -> Any:
        try:
            with warnings.catch_warnings():
                if not debug:
                    warnings.showwarning = _show_warning
                return command(*arguments, **options)
        except BrokenPipeError:
            # Whoever read our output has seen enough. Python flushes stdout once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except GodbError as error:
            if debug:
                raise
            click.echo(f"godb-arrow: {' '.join(str(error).split())}", err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            click.echo("godb-arrow: interrupted", err=True)
            sys.exit(130)

    return cast(_Command, run)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"godb-arrow: warning: {message}", err=True)


_collection = click.option(
    "--collection", "-c", help="Which collection; not needed when the file has one only."
)
_columns = click.option(
    "--columns",
    help="Fields to read, separated by commas; dotted paths go into structs (user.geo.cc).",
)
_where = click.option(
    "--where",
    "-w",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Keep documents with this value (JSON, or else text). Can be given several times.",
)


def _progress(
    total: int | None, unit: str, quiet: bool
) -> AbstractContextManager[Callable[[int], Any]]:
    """A bar on standard error, if that is a terminal."""
    return progress_bar(total, unit=unit, shown=not quiet and sys.stderr.isatty())


_compression = click.option(
    "--compression",
    type=click.Choice(get_args(CompressionName)),
    default="lz4",
    show_default=True,
    help="Of the whole file; go-db reads lz4 and lz4hc.",
)


def _split(columns: str | None) -> list[str] | None:
    return None if columns is None else [name for name in columns.split(",") if name]


def _conditions(where: tuple[str, ...]) -> dict[str, Any] | None:
    found = {}
    for condition in where:
        name, separator, value = condition.partition("=")
        if not separator:
            raise InvalidOption(f"--where {condition!r} has no =", advice="write FIELD=VALUE")
        try:
            found[name] = from_json_text(value)
        except ValueError:
            found[name] = value
    return found or None


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="godb-arrow")
def main() -> None:
    """GODB files in, Arrow and DataFrames out, and back.

    FILE is a path, or any URL that fsspec knows, such as s3://bucket/users.godb.

    \b
    Try it:
      godb-arrow demo                                  a tour on real data
      godb-arrow info users.godb                       what a file holds
      godb-arrow export users.godb users.parquet       for everybody else
      godb-arrow cat users.godb | jq .name             documents, one a line
      godb-arrow import users.csv users.godb           and back
    """


@main.command()
@click.argument("file")
@_common
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
        name = compression.name  # what the next save will do
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
            "godb-arrow: warning: the compiled kernel is not in use, so that reading and writing "
            "are many times slower; install a wheel, or install with a C++ compiler",
            err=True,
        )
    for collection in report.collections:
        size = quantity(collection.size)
        click.echo(f"\n  {collection.name!r}: {collection.count:,} documents, {size}")
        for line in _schema_lines(godb_arrow.read_schema(file, collection.name)):
            click.echo(f"    {line}")


def _schema_lines(schema: pa.Schema) -> list[str]:
    width = max((len(name) for name in schema.names), default=0)
    return [f"{field.name:<{width}}  {_type_name(field.type)}" for field in schema]


def _type_name(data_type: pa.DataType) -> str:
    return "json" if isinstance(data_type, pa.JsonType) else str(data_type)


@main.command()
@click.argument("file")
@_collection
@_common
def schema(file: str, collection: str | None, quiet: bool) -> None:
    """Show the Arrow schema of a collection, over all its documents.

    \b
    Example:
      godb-arrow schema shop.godb -c orders
    """
    for line in _schema_lines(godb_arrow.read_schema(file, collection)):
        click.echo(line)


@main.command()
@click.argument("file")
@_collection
@_columns
@click.option("--rows", "-n", default=5, show_default=True, type=click.IntRange(1))
@_common
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
        columns=_split(columns),
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
@_collection
@click.option("--limit", "-n", type=click.IntRange(0), help="Stop after this many documents.")
@click.option(
    "--plain",
    is_flag=True,
    help="Timestamps as text and binary as base64, for programs that know only JSON.",
)
@_common
def cat(file: str, collection: str | None, limit: int | None, plain: bool, quiet: bool) -> None:
    """Write documents to standard output as NDJSON, one a line, as they are stored.

    What JSON has no word for is written as {"$time": …}, {"$bytes": …} and so on, and read back
    by "import"; --plain gives simple text instead.

    \b
    Example:
      godb-arrow cat users.godb | head -n 3
    """
    documents = godb_arrow.read_documents(file, collection)
    out = sys.stdout.buffer
    for document in itertools.islice(documents, limit):
        out.write(to_json_text(document, plain=plain).encode() + b"\n")
    out.flush()


@main.command()
@click.argument("file")
@click.argument("target")
@click.option("--collection", "-c", multiple=True, help="Which collections; all, if left out.")
@_columns
@_where
@click.option(
    "--format",
    "format_",
    type=click.Choice(sorted(set(FORMATS.values()))),
    help="By the target's extension, if left out.",
)
@_common
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

    With several collections, TARGET has {collection} in its name.

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
            f"{file} has {len(names)} collections ({', '.join(map(repr, names[:10]))}) and there "
            "is one target",
            advice="name one with --collection, or put {collection} into the target's name",
        )
    for name in names:
        path = target.replace("{collection}", file_name(name))
        reader = godb_arrow.scan_godb(
            file, name, columns=_split(columns), filter=_conditions(where)
        )
        with _progress(counts.get(name), " documents", quiet) as update:
            rows = export_file(reader, path, format=format_, progress=update)
        if not quiet:
            click.echo(f"{path}: {rows:,} rows", err=True)


@main.command("import")
@click.argument("sources", nargs=-1, required=True)
@click.argument("file")
@click.option("--collection", "-c", help="By the source's name, if left out.")
@click.option("--id", "id_column", help="The field with the document ids.")
@click.option(
    "--if-exists",
    type=click.Choice(["replace", "append", "fail"]),
    default="fail",
    show_default=True,
    help="What to do when FILE has the collection.",
)
@click.option("--format", "format_", type=click.Choice(sorted(set(FORMATS.values()))))
@_compression
@_common
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

    Other collections of FILE stay as they are.

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
            _progress(None, " documents", quiet) as update,
        ):
            rows = godb_arrow.write_godb(
                _counted(data, update), file, name, id_column=id_column, if_exists=if_exists,
                compression=compression,
            )  # fmt: skip
        if not quiet:
            click.echo(f"{file}: {rows:,} documents in {name!r}", err=True)


@main.command()
@click.argument("source")
@click.argument("target")
@_columns
@_where
@click.option(
    "--mode",
    type=click.Choice(["error", "append", "overwrite", "upsert"]),
    default="error",
    show_default=True,
    help="What to do when the target is there.",
)
@click.option("--id", "id_column", help="The field with the document ids, if not _id.")
@click.option("--partition-by", help="Columns, separated by commas, that part a folder or table.")
@click.option("--batch-size", type=click.IntRange(1), help="Documents in a record batch, at most.")
@click.option("--format", "format_", help="What the target is, if its name does not tell.")
@_common
def copy(
    source: str,
    target: str,
    columns: str | None,
    where: tuple[str, ...],
    mode: Any,
    id_column: str | None,
    partition_by: str | None,
    batch_size: int | None,
    format_: str | None,
    quiet: bool,
) -> None:
    """Copy between GODB, Parquet, Arrow, CSV, NDJSON, BSON, Delta tables and databases.

    SOURCE and TARGET are paths or URLs, with #NAME where a file, data directory or database has
    several collections or tables. The target has all of it afterwards, or what it had before.

    \b
    Examples:
      godb-arrow copy shop.godb#orders orders.parquet --columns total,user.geo.cc
      godb-arrow copy dump/shop/orders.bson shop.godb#orders
      godb-arrow copy users.ndjson sqlite:///shop.db#users --mode upsert
      godb-arrow copy s3://bucket/users.godb lake/users --partition-by city
      godb-arrow copy data#users users-table --format delta
    """
    from godb_arrow.connectors import etl

    summary = etl.copy(
        source,
        target,
        columns=_split(columns),
        filter=_conditions(where),
        mode=mode,
        id_column=id_column,
        partition_by=_split(partition_by) or (),
        batch_size=batch_size,
        format=format_,
        progress=not quiet and sys.stderr.isatty(),
    )
    if not quiet:
        click.echo(str(summary), err=True)


@main.command()
@click.argument("directory")
@click.option("--host", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", default=8815, show_default=True, type=click.IntRange(0, 65535))
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="A file with the token that clients must have, of at least 16 characters.",
)
@click.option("--insecure", is_flag=True, help="Ask for no token; on a loopback address only.")
@click.option("--tls-cert", type=click.Path(exists=True), help="Certificate chain, in PEM.")
@click.option("--tls-key", type=click.Path(exists=True), help="Its private key, in PEM.")
@click.option(
    "--tls-client-ca",
    type=click.Path(exists=True),
    help="Certificates that sign those which clients must have.",
)
@click.option("--max-streams", default=16, show_default=True, type=click.IntRange(1))
@click.option("--max-message", default="64MiB", show_default=True, help="Of a record batch.")
@click.option("--max-memory", default="1GB", show_default=True, help="Of the engine.")
@click.option("--save", default="1min", show_default=True, help="How often changes are saved.")
@click.option("--read-only", is_flag=True, help="Take no uploads; others may write meanwhile.")
@click.option(
    "--grace", default="30s", show_default=True, help="How long streams may go on after SIGTERM."
)
@_common
def serve(
    directory: str,
    host: str,
    port: int,
    token_file: str | None,
    insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    max_streams: int,
    max_message: str,
    max_memory: str,
    save: str,
    read_only: bool,
    grace: str,
    quiet: bool,
) -> None:
    """Serve the collections of a data directory by Arrow Flight, until SIGTERM or Ctrl-C.

    Clients list, read (with columns and filter) and upload: with godb_arrow.connectors.flight, or
    with any Flight library.

    \b
    Examples:
      godb-arrow serve data --token-file token
      godb-arrow serve data --host 0.0.0.0 --token-file token --tls-cert c.pem --tls-key k.pem
    """
    from godb_arrow.connectors.flight import FlightServer

    if (token_file is None) == (not insecure):
        raise InvalidOption(
            "nobody, or everybody, could read and write",
            advice="give --token-file, or --insecure on a loopback address",
        )
    if (tls_cert is None) != (tls_key is None):
        raise InvalidOption("a certificate needs its key", advice="give --tls-cert and --tls-key")
    tls = None if tls_cert is None or tls_key is None else (_content(tls_cert), _content(tls_key))
    seconds = parse_duration("--grace", grace)
    ending = _until_told()
    with godb_arrow.StorageEngine(
        directory, max_memory=max_memory, background_save=save, read_only=read_only
    ) as engine:
        server = FlightServer(
            engine,
            host,
            port,
            token=None if token_file is None else _content(token_file).decode().strip(),
            tls=tls,
            client_authority=None if tls_client_ca is None else _content(tls_client_ca),
            max_streams=max_streams,
            max_message_bytes=parse_size("--max-message", max_message),
        )
        if not read_only:
            engine.start_background_workers()
        if not quiet:
            click.echo(f"serving {len(engine)} collections on {host}:{server.port}", err=True)
        ending.wait()
        stopping = threading.Thread(target=server.shutdown, daemon=True)
        stopping.start()
        stopping.join(seconds)
    if not quiet:
        click.echo("saved and closed", err=True)
    if stopping.is_alive():
        os._exit(0)  # a client that reads no more must not keep the process


def _until_told() -> threading.Event:
    """Set when the process is told to end."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return ending


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _counted(data: Any, update: Callable[[int], object]) -> Any:
    """The same documents or record batches, with a progress bar that moves."""
    if not isinstance(data, pa.RecordBatchReader):
        return (document for document in data if update(1) is not data)

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in data:
            update(batch.num_rows)
            yield batch

    return pa.RecordBatchReader.from_batches(data.schema, batches())


@main.command()
@click.argument("sources", metavar="FILES...", nargs=-1, required=True)
@_common
def verify(sources: tuple[str, ...], quiet: bool) -> None:
    """Check every byte of files: checksums, MessagePack, document ids, recorded hints.

    The exit status is 1 when a file is damaged.

    \b
    Example:
      godb-arrow verify backup/*.godb
    """
    damaged = False
    for source in sources:
        with _progress(None, " documents", quiet) as update:
            report = verify_godb(source, progress=update)
        for problem in report.problems:
            click.echo(problem if source in problem else f"{source}: {problem}", err=True)
        for note in report.notes if not quiet else ():
            click.echo(f"{source}: note: {note}", err=True)
        damaged = damaged or not report.ok
        if report.ok and not quiet:
            documents = sum(collection.count for collection in report.collections)
            checksum = "checksums match" if report.checksum else "no checksum in the file"
            click.echo(f"{source}: sound, {documents:,} documents, {checksum}")
    if damaged:
        sys.exit(DAMAGED)


@main.command()
@click.argument("directory")
@click.argument("collections", nargs=-1)
@_common
def compact(directory: str, collections: tuple[str, ...], quiet: bool) -> None:
    """Join the small files of collections that have several, and leave out what was deleted.

    \b
    Example:
      godb-arrow compact data events
    """
    with godb_arrow.StorageEngine(directory) as engine:
        for name in collections or engine.collections():
            written = engine.compact(name)
            if not quiet:
                files = len(engine.versions(name)[-1:]) and engine.versions(name)[-1].parts
                click.echo(f"{name}: {quantity(written)} written, {files or 1} files")


@main.command()
@click.argument("directory")
@click.argument("collections", nargs=-1, required=True)
@_common
def pack(directory: str, collections: tuple[str, ...], quiet: bool) -> None:
    """Write collections that have several files into one each, which go-db reads.

    \b
    Example:
      godb-arrow pack data events
    """
    with godb_arrow.StorageEngine(directory) as engine:
        for name in collections:
            engine.pack(name)
            if not quiet:
                click.echo(f"{name}: {quantity(engine.info(name).disk_bytes)} in one file")


@main.command()
@click.argument("directory")
@click.argument("collection")
@click.argument("name", metavar="NAME", type=click.Choice(get_args(CompressionName)))
@_common
def compression(directory: str, collection: str, name: CompressionName, quiet: bool) -> None:
    """Choose how a collection's files are compressed from now on.

    NAME is lz4 or lz4hc (smaller, slower to write), which go-db reads, or zstd (smallest) or none,
    which only godb_arrow reads. A single file is written anew; of several, those that are there
    stay as they are until they are joined.

    \b
    Example:
      godb-arrow compression data events zstd
    """
    with godb_arrow.StorageEngine(directory) as engine:
        found = engine[collection]
        found.set_compression(name)
        engine.save()
        if not quiet:
            click.echo(f"{collection}: {name}, {quantity(found.info().disk_bytes)}")


@main.command()
@click.argument("directory")
@click.argument("collection")
@click.option("--restore", type=int, help="Go back to this version.")
@_common
def versions(directory: str, collection: str, restore: int | None, quiet: bool) -> None:
    """Show the saved states of a collection that has several files, and go back to one.

    \b
    Examples:
      godb-arrow versions data events
      godb-arrow versions data events --restore 41
    """
    with godb_arrow.StorageEngine(directory, read_only=restore is None) as engine:
        if restore is not None:
            engine.restore(collection, restore)
        for info in engine.versions(collection) if not quiet else ():
            click.echo("  ".join(info.cells()))


@main.command()
@click.argument("directory")
@click.argument("target")
@_common
def backup(directory: str, target: str, quiet: bool) -> None:
    """Copy a data directory to a folder or URL: only what is not there from the time before.

    \b
    Example:
      godb-arrow backup data s3://bucket/backups
    """
    with godb_arrow.StorageEngine(directory) as engine:
        info = engine.backup(target)
    if not quiet:
        click.echo(
            f"backup {info.number}: {len(info.collections)} collections, {info.files} files of "
            f"{quantity(info.size)}; {info.copied_files} of {quantity(info.copied_size)} were new"
        )


@main.command()
@click.argument("source")
@click.argument("directory")
@click.option("--number", "-n", type=int, help="Which backup; the last one, if left out.")
@_common
def restore(source: str, directory: str, number: int | None, quiet: bool) -> None:
    """Make a data directory of a backup; every byte is checked.

    \b
    Example:
      godb-arrow restore s3://bucket/backups data
    """
    info = godb_arrow.restore_backup(source, directory, number)
    if not quiet:
        click.echo(f"backup {info.number} of {info.created:%Y-%m-%d %H:%M} UTC: {info.files} files")


@main.command()
@click.argument("source")
@click.argument("target")
@click.option("--interval", default="500ms", show_default=True, help="How often to look.")
@click.option("--once", is_flag=True, help="Bring it up to date, and end.")
@click.option("--replace", is_flag=True, help="Give up a data directory of its own in TARGET.")
@_common
def follow(source: str, target: str, interval: str, once: bool, replace: bool, quiet: bool) -> None:
    """Keep the folder or URL TARGET the same as the data directory SOURCE, until Ctrl-C.

    SOURCE may be in use. TARGET can be read all the time (read_only=True), and takes over with
    "promote".

    \b
    Examples:
      godb-arrow follow data copy
      godb-arrow follow data s3://bucket/copy --once
    """
    seconds = parse_duration("interval", interval)
    stopped = _until_told()
    with godb_arrow.Follower(source, target, replace=replace) as follower:
        while True:
            copied = follower.step()
            if copied.files and not quiet:
                click.echo(
                    f"{target}: record {follower.record:,}, {copied.files} files of "
                    f"{quantity(copied.size)} copied",
                    err=True,
                )
            if once or stopped.wait(seconds):
                return


@main.command()
@click.argument("target")
@_common
def follower(target: str, quiet: bool) -> None:
    """Show how far a follower is.

    \b
    Example:
      godb-arrow follower copy
    """
    status = godb_arrow.follower_status(target)
    click.echo(f"{target} follows {status.source}: {status}")


@main.command()
@click.argument("target")
@click.option("--force", is_flag=True, help="Also when it is not whole.")
@_common
def promote(target: str, force: bool, quiet: bool) -> None:
    """Make a follower a data directory of its own; nobody must write the one that it followed.

    \b
    Example:
      godb-arrow promote copy
    """
    record = godb_arrow.promote(target, force=force)
    if not quiet:
        click.echo(f"{target}: a data directory of its own, with all changes up to {record:,}")


@main.command()
@_common
def demo(quiet: bool) -> None:
    """A tour on real data: the flights that left New York City in January 2013.

    Streams them as record batches, loads them into pandas, writes them to Parquet, and reads
    those back into a GODB file.
    """
    _demo(FLIGHTS, quiet)


def _demo(sample: str, quiet: bool) -> None:
    size = os.path.getsize(sample)
    (name, count), *_ = godb_arrow.list_collections(sample).items()
    click.echo(f"flights.godb: {quantity(size)}, collection {name!r}, {count:,} documents\n")
    click.echo("Its Arrow schema:")
    for line in _schema_lines(godb_arrow.read_schema(sample)):
        click.echo(f"  {line}")

    start = time.perf_counter()
    batches = 0
    with (
        godb_arrow.scan_godb(sample, batch_size=8192) as reader,
        _progress(count, " documents", quiet) as update,
    ):
        for batch in reader:
            batches += 1
            update(batch.num_rows)
    seconds = time.perf_counter() - start
    click.echo(
        f"\nStreamed as {batches} record batches in {seconds:.2f} s: "
        f"{count / seconds:,.0f} documents/s with the {codec.BACKEND} codec\n"
    )

    frame = godb_arrow.read_godb(sample, columns=["carrier", "dest", "distance", "dep_delay"])
    click.echo(f"In pandas, 4 of {len(godb_arrow.read_schema(sample))} columns:")
    click.echo(f"{frame.head()}\n")
    delays = frame.groupby("dest")["dep_delay"].mean().sort_values(ascending=False)
    click.echo(f"Latest on average: {', '.join(f'{k} {v:.0f} min' for k, v in delays[:3].items())}")

    with tempfile.TemporaryDirectory() as folder:
        parquet = os.path.join(folder, "flights.parquet")
        back = os.path.join(folder, "flights.godb")
        rows = export_file(godb_arrow.scan_godb(sample), parquet)
        click.echo(f"\nTo Parquet: {rows:,} rows, {quantity(os.path.getsize(parquet))}")
        with open_file(parquet) as data:
            rows = godb_arrow.write_godb(data, back, name)
        same = godb_arrow.read_table(back).equals(godb_arrow.read_table(sample))
        click.echo(f"And back:   {rows:,} documents, {'the same' if same else 'NOT the same'}")
    if not same:
        sys.exit(DAMAGED)
