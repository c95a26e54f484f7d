"""The ``godb-arrow`` command: what the library does, verb for verb."""

from __future__ import annotations

import click

from godb_arrow._version import __version__

__all__ = ["main"]


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
