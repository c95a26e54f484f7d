"""Commands for data directories: serve, compact, repair, back up, follow."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings

import click

import godb_arrow
from godb_arrow.cli.command import main
from godb_arrow.cli.options import DAMAGED, common_options, echo
from godb_arrow.directory.repair import repair_journal
from godb_arrow.display import plural, quantity
from godb_arrow.errors import InvalidOption
from godb_arrow.options import CompressionName, OptionWarning, parse_duration, parse_size

# Another thread may receive a signal, whose handler runs when the main thread runs again.
_SIGNAL_SECONDS = 0.5


@main.command()
@click.argument("directory")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8815,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="Port to listen on, or 0 for any free port.",
)
@click.option(
    "--token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="File with the token that clients must send, of at least 16 characters.",
)
@click.option(
    "--read-only-token-file",
    type=click.Path(exists=True, dir_okay=False),
    help="File with a second token, for clients that may not upload.",
)
@click.option("--insecure", is_flag=True, help="Serve without a token, on a loopback address only.")
@click.option("--tls-cert", type=click.Path(exists=True), help="Certificate chain, in PEM.")
@click.option(
    "--tls-key", type=click.Path(exists=True), help="Private key of the certificate, in PEM."
)
@click.option(
    "--tls-client-ca",
    type=click.Path(exists=True),
    help="Certificates that sign the certificates of clients, in PEM.",
)
@click.option(
    "--max-streams",
    default=16,
    show_default=True,
    type=click.IntRange(1),
    help="Maximum number of streams at the same time.",
)
@click.option(
    "--max-message", default="64MiB", show_default=True, help="Maximum size of a record batch."
)
@click.option(
    "--max-idle", default="5min", show_default=True, help="Time that a stream waits for its client."
)
@click.option("--max-memory", default="1GB", show_default=True, help="Memory limit of the engine.")
@click.option("--save", default="1min", show_default=True, help="Interval between saves.")
@click.option(
    "--read-only", is_flag=True, help="Refuse uploads, so that another process may write."
)
@click.option("--create", is_flag=True, help="Create the data directory if it is missing.")
@click.option(
    "--grace", default="30s", show_default=True, help="Time for open streams after SIGTERM."
)
@common_options
def serve(
    directory: str,
    host: str,
    port: int,
    token_file: str | None,
    read_only_token_file: str | None,
    insecure: bool,
    tls_cert: str | None,
    tls_key: str | None,
    tls_client_ca: str | None,
    max_streams: int,
    max_message: str,
    max_idle: str,
    max_memory: str,
    save: str,
    read_only: bool,
    create: bool,
    grace: str,
    quiet: bool,
) -> None:
    """Serve the collections of a data directory by Arrow Flight, until SIGTERM or Ctrl-C.

    Clients list collections, read them with columns and filter, and upload. They use
    godb_arrow.connectors.flight or any Flight library.

    \b
    Examples:
      godb-arrow serve data --token-file token
      godb-arrow serve data --host 0.0.0.0 --token-file token --tls-cert c.pem --tls-key k.pem
    """
    from godb_arrow.connectors.flight.server import FlightServer

    if (token_file is None) == (not insecure):
        raise InvalidOption(
            "--token-file and --insecure exclude each other, and one is required",
            advice="give --token-file, or --insecure on a loopback address",
        )
    if (tls_cert is None) != (tls_key is None):
        raise InvalidOption(
            "--tls-cert and --tls-key require each other", advice="give both options"
        )
    tls = None if tls_cert is None or tls_key is None else (_content(tls_cert), _content(tls_key))
    seconds = parse_duration("--grace", grace)
    ending = _end_on_signal()
    with godb_arrow.StorageEngine(
        directory, max_memory=max_memory, background_save=save, read_only=read_only, create=create
    ) as engine:
        server = FlightServer(
            engine,
            host,
            port,
            token=_token_in(token_file),
            read_only_token=_token_in(read_only_token_file),
            tls=tls,
            client_authority=None if tls_client_ca is None else _content(tls_client_ca),
            max_streams=max_streams,
            max_message_bytes=parse_size("--max-message", max_message),
            max_idle=parse_duration("--max-idle", max_idle),
        )
        if not read_only:
            engine.start_background_workers()
        if not quiet:
            echo(f"serving {plural(len(engine), 'collection')} on {host}:{server.port}", err=True)
        while not ending.wait(_SIGNAL_SECONDS):
            pass
        server.shutdown(seconds)
    if not quiet:
        echo("saved and closed", err=True)


def _token_in(path: str | None) -> str | None:
    """Return the token in a file without its line end, and warn if other users can read it."""
    if path is None:
        return None
    if os.name == "posix" and os.stat(path).st_mode & 0o077:
        warnings.warn(
            f"other users can read the token in {path}; use chmod 600", OptionWarning, stacklevel=2
        )
    return _content(path).decode("utf-8", "replace").strip()


def _end_on_signal() -> threading.Event:
    """Return an event that SIGTERM and Ctrl-C set."""
    ending = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ending.set())
    return ending


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


@main.command()
@click.argument("directory")
@click.argument("collections", nargs=-1)
@common_options
def compact(directory: str, collections: tuple[str, ...], quiet: bool) -> None:
    """Merge small part files and drop deleted documents.

    \b
    Example:
      godb-arrow compact data events
    """
    with godb_arrow.StorageEngine(directory, create=False) as engine:
        for name in collections or engine.collections():
            written = engine.compact(name)
            if not quiet:
                files = len(engine.versions(name)[-1:]) and engine.versions(name)[-1].parts
                echo(f"{name}: {quantity(written)} written, {files or 1} files")


@main.command()
@click.argument("directory")
@click.argument("collections", nargs=-1, required=True)
@common_options
def pack(directory: str, collections: tuple[str, ...], quiet: bool) -> None:
    """Merge all part files of a collection into one file, which go-db can read.

    \b
    Example:
      godb-arrow pack data events
    """
    with godb_arrow.StorageEngine(directory, create=False) as engine:
        for name in collections:
            engine.pack(name)
            if not quiet:
                echo(f"{name}: {quantity(engine.info(name).disk_bytes)} in one file")


@main.command()
@click.argument("directory")
@click.argument("collection")
@click.argument("name", metavar="NAME")
@common_options
def compression(directory: str, collection: str, name: CompressionName, quiet: bool) -> None:
    """Set the compression of a collection's new files.

    NAME is lz4 or lz4hc (smaller, slower to write), which go-db reads, or zstd (smallest) or none,
    which only godb_arrow reads. A single file is rewritten. Existing part files keep their
    compression until they are merged.

    \b
    Example:
      godb-arrow compression data events zstd
    """
    with godb_arrow.StorageEngine(directory, create=False) as engine:
        stored = engine[collection]
        stored.set_compression(name)
        engine.save()
        if not quiet:
            echo(f"{collection}: {name}, {quantity(stored.info().disk_bytes)}")


@main.command()
@click.argument("directory")
@click.argument("collection")
@click.option("--restore", type=int, help="Number of a version to restore.")
@common_options
def versions(directory: str, collection: str, restore: int | None, quiet: bool) -> None:
    """Show the saved versions of a collection that has several files, or restore a version.

    \b
    Examples:
      godb-arrow versions data events
      godb-arrow versions data events --restore 41
    """
    read_only = restore is None
    with godb_arrow.StorageEngine(directory, read_only=read_only, create=False) as engine:
        if restore is not None:
            engine.restore(collection, restore)
        for info in engine.versions(collection) if not quiet else ():
            echo("  ".join(info.cells()))


@main.command()
@click.argument("directory")
@common_options
def repair(directory: str, quiet: bool) -> None:
    """Repair the damaged journal of a data directory.

    All complete changes are kept. Damaged files of the journal are renamed to NAME.damaged. The
    exit status is 1 if changes are lost.

    \b
    Example:
      godb-arrow repair data
    """
    report = repair_journal(directory)
    for damage in report.damage:
        echo(str(damage), err=True)
    if not quiet:
        echo(
            f"{directory}: {report.kept:,} changes kept"
            if report.damage
            else f"{directory}: the journal is valid, {report.kept:,} changes"
        )
    if report.damage:
        sys.exit(DAMAGED)


@main.command()
@click.argument("directory")
@click.argument("target")
@click.option("--keep", type=click.IntRange(1), help="Keep the last backups, and delete others.")
@common_options
def backup(directory: str, target: str, keep: int | None, quiet: bool) -> None:
    """Back up a data directory to a folder or URL, copying only files that are new there.

    \b
    Examples:
      godb-arrow backup data s3://bucket/backups
      godb-arrow backup data backups --keep 7
    """
    with godb_arrow.StorageEngine(directory, create=False) as engine:
        info = engine.backup(target, keep=keep)
    if not quiet:
        echo(
            f"backup {info.number}: {plural(len(info.collections), 'collection')}, "
            f"{plural(info.files, 'file')} of {quantity(info.size)}; "
            f"{info.copied_files} of {quantity(info.copied_size)} were new"
        )


@main.command()
@click.argument("source")
@click.argument("directory")
@click.option("--number", "-n", type=int, help="Number of the backup. Default: the last one.")
@common_options
def restore(source: str, directory: str, number: int | None, quiet: bool) -> None:
    """Create a data directory from a backup, after checking all its files.

    \b
    Example:
      godb-arrow restore s3://bucket/backups data
    """
    info = godb_arrow.restore_backup(source, directory, number)
    if not quiet:
        echo(f"backup {info.number} of {info.created:%Y-%m-%d %H:%M} UTC: {info.files} files")


@main.command()
@click.argument("source")
@click.argument("target")
@click.option("--interval", default="500ms", show_default=True, help="Time between two updates.")
@click.option("--once", is_flag=True, help="Update TARGET once, and end.")
@click.option(
    "--replace", is_flag=True, help="Replace the content of TARGET, even if it follows another."
)
@common_options
def follow(source: str, target: str, interval: str, once: bool, replace: bool, quiet: bool) -> None:
    """Keep the folder or URL TARGET identical to the data directory SOURCE, until Ctrl-C.

    SOURCE may be in use. TARGET can always be read, with read_only=True. The command "promote"
    makes it writable.

    \b
    Examples:
      godb-arrow follow data copy
      godb-arrow follow data s3://bucket/copy --once
    """
    seconds = parse_duration("interval", interval)
    stopped = _end_on_signal()
    with godb_arrow.Follower(source, target, replace=replace) as follower:
        while True:
            copied = follower.step()
            if copied.files and not quiet:
                echo(
                    f"{target}: record {follower.record:,}, {copied.files} files of "
                    f"{quantity(copied.size)} copied",
                    err=True,
                )
            if once or stopped.wait(seconds):
                return


@main.command()
@click.argument("target")
@common_options
def follower(target: str, quiet: bool) -> None:
    """Show the state of a follower: its last change, its lag, and whether it is consistent.

    \b
    Example:
      godb-arrow follower copy
    """
    status = godb_arrow.follower_status(target)
    echo(f"{target} follows {status.source}: {status}")


@main.command()
@click.argument("target")
@click.option("--force", is_flag=True, help="Promote a follower that is not consistent, too.")
@common_options
def promote(target: str, force: bool, quiet: bool) -> None:
    """Turn a follower into a data directory that can be written.

    No process may write the data directory that it followed any more.

    \b
    Example:
      godb-arrow promote copy
    """
    record = godb_arrow.promote(target, force=force)
    if not quiet:
        echo(f"{target}: promoted, with all changes up to {record:,}")
