"""Command ``demo``."""

from __future__ import annotations

import os
import sys
import tempfile
import time

import godb_arrow
from godb_arrow import codec
from godb_arrow.cli.command import main
from godb_arrow.cli.files import schema_lines
from godb_arrow.cli.options import DAMAGED, common_options, echo, progress
from godb_arrow.connectors.etl.files import export_file, open_file
from godb_arrow.display import quantity
from godb_arrow.samples import FLIGHTS


@main.command()
@common_options
def demo(quiet: bool) -> None:
    """Show a tour with real data, the flights that left New York City in January 2013.

    The tour streams the flights as record batches, loads them into pandas, exports them to
    Parquet, and imports them into a GODB file again.
    """
    _demo(FLIGHTS, quiet)


def _demo(sample: str, quiet: bool) -> None:
    size = os.path.getsize(sample)
    (name, count), *_ = godb_arrow.list_collections(sample).items()
    echo(f"flights.godb: {quantity(size)}, collection {name!r}, {count:,} documents\n")
    echo("Its Arrow schema:")
    for line in schema_lines(godb_arrow.read_schema(sample)):
        echo(f"  {line}")

    with godb_arrow.scan_godb(sample, batch_size=8192) as reader:
        for _ in reader:  # The first pass imports modules and fills the disk's cache.
            pass
    start = time.perf_counter()
    batches = 0
    with (
        godb_arrow.scan_godb(sample, batch_size=8192) as reader,
        progress(count, " documents", quiet) as update,
    ):
        for batch in reader:
            batches += 1
            update(batch.num_rows)
    seconds = time.perf_counter() - start
    echo(
        f"\nStreamed as {batches} record batches in {seconds:.2f} s: "
        f"{count / seconds:,.0f} documents/s with the {codec.BACKEND} codec\n"
    )

    frame = godb_arrow.read_godb(sample, columns=["carrier", "dest", "distance", "dep_delay"])
    echo(f"In pandas, 4 of {len(godb_arrow.read_schema(sample))} columns:")
    echo(f"{frame.head()}\n")
    delays = frame.groupby("dest")["dep_delay"].mean().sort_values(ascending=False)
    echo(f"Latest on average: {', '.join(f'{k} {v:.0f} min' for k, v in delays[:3].items())}")

    with tempfile.TemporaryDirectory() as folder:
        parquet = os.path.join(folder, "flights.parquet")
        back = os.path.join(folder, "flights.godb")
        rows = export_file(godb_arrow.scan_godb(sample), parquet)
        echo(f"\nTo Parquet: {rows:,} rows, {quantity(os.path.getsize(parquet))}")
        with open_file(parquet) as data:
            rows = godb_arrow.write_godb(data, back, name)
        same = godb_arrow.read_table(back).equals(godb_arrow.read_table(sample))
        echo(f"And back:   {rows:,} documents, {'the same' if same else 'NOT the same'}")
    if not same:
        sys.exit(DAMAGED)
