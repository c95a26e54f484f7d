"""Group of all commands, which mirror the functions and methods of the library."""

from __future__ import annotations

import click

from godb_arrow._version import __version__

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="godb-arrow")
def main() -> None:
    """Convert GODB files to and from other formats, and manage data directories.

    FILE is a path, or any URL that fsspec knows, such as s3://bucket/users.godb.

    \b
    Examples:
      godb-arrow demo                                  a tour with real data
      godb-arrow info users.godb                       collections, sizes and schemas
      godb-arrow export users.godb users.parquet       to Parquet
      godb-arrow cat users.godb | jq .name             one document on each line
      godb-arrow import users.csv users.godb           from CSV
    """
