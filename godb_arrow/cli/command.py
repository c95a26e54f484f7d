"""Group of all commands, which mirror the functions and methods of the library."""

from __future__ import annotations

import atexit
import gc
import importlib
import os

import click

from godb_arrow._version import __version__
from godb_arrow.cli.deferred import defer

__all__ = ["main"]

_MODULES = {
    "info": "check",
    "schema": "files",
    "head": "files",
    "cat": "files",
    "export": "convert",
    "import": "convert",
    "copy": "convert",
    "verify": "check",
    "health": "check",
    "demo": "demo",
    "serve": "directories",
    "compact": "directories",
    "pack": "directories",
    "compression": "directories",
    "versions": "directories",
    "repair": "directories",
    "backup": "directories",
    "restore": "directories",
    "follow": "directories",
    "follower": "directories",
    "promote": "directories",
}
"""Modules of the commands, which are imported when the command is used."""


_CONVERSIONS = frozenset({"check", "convert", "files"})
"""Modules of commands that go through a file once, and end."""

# The bytes of documents need neither, and both take longer to import than all of this package.
defer("numpy", "pyarrow")
# No command uses linear algebra, for which NumPy would start threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Imports leave no garbage, for which Python would search often, and at the end in all objects.
gc.set_threshold(50_000, *gc.get_threshold()[1:])
atexit.register(gc.freeze)


class _Group(click.Group):
    """Group whose commands are imported when they are used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of all commands, in alphabetical order."""
        return sorted(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command by its name, or None."""
        if name in _MODULES:
            importlib.import_module(f"godb_arrow.cli.{_MODULES[name]}")
            if _MODULES[name] in _CONVERSIONS:
                importlib.import_module("godb_arrow.memory.limit").keep_freed_memory()
        return super().get_command(context, name)


@click.group(
    cls=_Group,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
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
