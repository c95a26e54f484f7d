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
from godb_arrow.display import plural, quantity
from godb_arrow.engine.checking import inspect_godb, verify_godb
from godb_arrow.engine.places import opened_engine, place_of
from godb_arrow.errors import GodbError, SourceNotFound
from godb_arrow.replication.status import follower_status
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.occupied import is_locked
from godb_arrow.storage.several import places_of


@main.command()
@click.argument("file")
@common_options
def info(file: str, quiet: bool) -> None:
    """Show a file's header, collections, sizes and schemas; of a data directory, its collections.

    \b
    Examples:
      godb-arrow info users.godb
      godb-arrow info data#users
    """
    place = place_of(file)
    if place.kind == "file" and places_of(file) is None:
        _show_file(str(place.location), place.collection)
        return
    counts = godb_arrow.list_collections(file)
    kinds = {"directory": "data directory", "parts": "folder of a collection", "file": "files"}
    echo(f"{file}")
    echo(f"  {kinds[place.kind]:<12} {plural(len(counts), 'collection')}")
    _show_codec()
    for name, count in counts.items():
        echo(f"\n  {name!r}: {plural(count, 'document')}")
        schema = godb_arrow.read_schema(file, None if place.collection else name)
        for line in schema_lines(schema):
            echo(f"    {line}")


def _show_file(file: str, chosen: str | None) -> None:
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
    _show_codec()
    for collection in report.collections:
        if chosen not in (None, collection.name):
            continue
        size = quantity(collection.size)
        echo(f"\n  {collection.name!r}: {plural(collection.count, 'document')}, {size}")
        for line in schema_lines(godb_arrow.read_schema(file, collection.name)):
            echo(f"    {line}")


def _show_codec() -> None:
    echo(f"  codec        {codec.BACKEND}")
    if codec.BACKEND == "reference":
        echo(
            "godb-arrow: warning: reading and writing are many times slower without the compiled "
            "kernel; install a wheel, or install with a C++ compiler",
            err=True,
        )


@main.command()
@click.argument("sources", metavar="PATHS...", nargs=-1, required=True)
@common_options
def verify(sources: tuple[str, ...], quiet: bool) -> None:
    """Check every byte of files, data directories and backups.

    Of a data directory, manifests, id files and the journal are checked, too. data#users stands for
    the files of one collection. The exit status is 1 if there is any damage.

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
            echo(f"{source}: valid, {plural(documents, 'document')}, {checksum}")
    if damaged:
        sys.exit(DAMAGED)


@main.command()
@click.argument("directory")
@common_options
def health(directory: str, quiet: bool) -> None:
    """Show what an operator must know about a data directory, while an engine writes it or not.

    The collections are opened, the journal is read, and of a follower its lag is shown. The exit
    status is 1 if there is a problem.

    \b
    Example:
      godb-arrow health data
    """
    with opened_engine(directory) as engine:
        found = engine.health()
        problems = list(found.problems)
        for name in engine:
            try:
                engine[name].info()
            except GodbError as error:
                problems.append(str(error))
        rows = [row for row in found.rows() if row[0] not in ("state", "memory")]
        try:
            follower = follower_status(directory)
        except SourceNotFound:
            pass
        else:
            lag = "never caught up" if follower.lag is None else f"{follower.lag:.1f} s behind"
            rows.append(("follows", f"{follower.source}, {lag}"))
            if not follower.consistent:
                problems.append("the follower is not consistent")
        rows.insert(0, ("state", "; ".join(problems) or "healthy"))
        if not is_url(engine.data_dir):
            writer = "an engine" if is_locked(engine.data_dir) else "no engine"
            rows.insert(1, ("written by", writer))
    for name, value in rows if not quiet else ():
        echo(f"{name:<18} {value}")
    if problems:
        sys.exit(DAMAGED)
