"""Commands that describe and check files, data directories and backups: info, verify."""

from __future__ import annotations

import sys

import click

import godb_arrow
from godb_arrow import codec
from godb_arrow.cli.command import main
from godb_arrow.cli.files import schema_lines
from godb_arrow.cli.options import DAMAGED, common_options, echo, progress
from godb_arrow.codec.compression import check_compression
from godb_arrow.directory.verify import inspect_godb
from godb_arrow.display import quantity
from godb_arrow.replication.verify import verify_godb


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
    echo(f"{file}")
    echo(f"  format       version {report.header.version}, flags {report.header.flags}")
    compression = report.header.compression
    name = next((c.hint.compression for c in report.collections if c.hint), compression.name)
    if check_compression(name).flags != report.header.flags:
        name = compression.name  # The hint is about the next save.
    echo(f"  compression  {name}; read by {', '.join(compression.readers)}")
    if report.size is not None:
        ratio = report.body_size / max(report.size - 8, 1)
        sizes = f"{quantity(report.size)} on disk, {quantity(report.body_size)} of MessagePack"
        echo(f"  size         {sizes}, ratio {ratio:.1f}")
    written = "godb_arrow (sealed)" if report.sealed else "another program"
    echo(f"  written by   {written}, {'with' if report.checksum else 'without'} checksum")
    if report.others:
        echo(f"  other keys   {', '.join(sorted(report.others))}")
    echo(f"  codec        {codec.BACKEND}")
    if codec.BACKEND == "reference":
        echo(
            "godb-arrow: warning: reading and writing are many times slower without the compiled "
            "kernel; install a wheel, or install with a C++ compiler",
            err=True,
        )
    for collection in report.collections:
        size = quantity(collection.size)
        echo(f"\n  {collection.name!r}: {collection.count:,} documents, {size}")
        for line in schema_lines(godb_arrow.read_schema(file, collection.name)):
            echo(f"    {line}")


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
            echo(problem if source in problem else f"{source}: {problem}", err=True)
        for note in report.notes if not quiet else ():
            echo(f"{source}: note: {note}", err=True)
        damaged = damaged or not report.ok
        if report.ok and not quiet:
            documents = sum(collection.count for collection in report.collections)
            checksum = "checksums match" if report.checksum else "no checksum in the file"
            echo(f"{source}: valid, {documents:,} documents, {checksum}")
    if damaged:
        sys.exit(DAMAGED)
