"""Options and exit codes that the commands share."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, TypeVar, cast, get_args

import click

from godb_arrow.display import printable, progress_bar, without_secrets
from godb_arrow.errors import GodbError, InvalidOption, SourceNotFound
from godb_arrow.options import IfExists, ReadKeywords
from godb_arrow.query.extended_json import parse_literal
from godb_arrow.storage.nearest import nearest_path

__all__ = [
    "common_options",
    "parse_conditions",
    "progress",
    "reading_options",
    "split_names",
]


_CONDITION = re.compile(r"([^=<>!]+)(>=|<=|!=|==|=|>|<)(.*)", re.DOTALL)
_OPERATORS = {">": "$gt", ">=": "$gte", "<": "$lt", "<=": "$lte", "!=": "$ne"}

DAMAGED = 1
FAILED = 2

_Command = TypeVar("_Command", bound=Callable[..., Any])


def echo(text: str, *, err: bool = False) -> None:
    """Print text without passwords of URLs, and with control characters as escape sequences."""
    click.echo(printable(without_secrets(text), keep="\n"), err=err)


def common_options(command: _Command) -> _Command:
    """Add the options of all commands, and print errors instead of tracebacks."""

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
            # The reader of the output has ended. Python would flush stdout once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)
        except GodbError as error:
            if debug:
                raise
            if isinstance(error, SourceNotFound):
                _suggest(error, [value for value in options.values() if isinstance(value, str)])
            echo(f"godb-arrow: {' '.join(str(error).split())}", err=True)
            sys.exit(FAILED)
        except KeyboardInterrupt:
            echo("godb-arrow: interrupted", err=True)
            sys.exit(130)

    return cast(_Command, run)


def _suggest(error: SourceNotFound, values: list[str]) -> None:
    """Suggest the most similar existing path in place of one that does not exist."""
    for path in (error.source, *values):
        if path and "did you mean" not in (error.advice or "") and not os.path.exists(path):
            near = nearest_path(path)
            if near is not None:
                error.advice = f"did you mean {near}?"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    echo(f"godb-arrow: warning: {message}", err=True)


if_exists_option = click.option(
    "--if-exists",
    type=click.Choice(get_args(IfExists)),
    default="error",
    show_default=True,
    help="Action if the target exists: the collection of a GODB file, a file, folder or table.",
)
collection_option = click.option(
    "--collection", "-c", help="Name of the collection. Optional if the file has only one."
)
no_hints_option = click.option(
    "--no-hints",
    is_flag=True,
    help="Trust the documents alone, and no recorded schema, index, size or statistics.",
)
columns_option = click.option(
    "--columns",
    help="Fields to read, separated by commas. Dotted paths lead into structs (user.geo.cc).",
)
where_option = click.option(
    "--where",
    "-w",
    multiple=True,
    metavar="FIELD=VALUE",
    help="Keep documents with this value; with != > >= < <= the others, or greater or smaller ones "
    "(quote it for the shell, as in 'age>30'). A bare word is text unless it is a JSON number, "
    "true, "
    "false or null. JSON has lists (any of the values), operators such as "
    "'age={\"$gte\": 30}', and the values of MongoDB's extended JSON. Can be given several times; "
    "all conditions must hold.",
)


format_options = click.option(
    "--format-option",
    multiple=True,
    metavar="NAME=VALUE",
    help="Option of the format. Protobuf needs descriptor=FILE, a descriptor set of protoc, and "
    "message=NAME, if it has several. Can be given several times.",
)


def parse_options(given: tuple[str, ...]) -> dict[str, str]:
    """Return the options of a format by name."""
    found = {}
    for option in given:
        name, separator, value = option.partition("=")
        if not separator:
            raise InvalidOption(f"--format-option {option!r} has no =", advice="write NAME=VALUE")
        found[name] = value
    return found


def progress(
    total: int | None, unit: str, quiet: bool
) -> AbstractContextManager[Callable[[int], Any]]:
    """Return a progress bar on standard error, if that is a terminal."""
    return progress_bar(total, unit=unit, shown=not quiet and sys.stderr.isatty())


compression_option = click.option(
    "--compression",
    metavar="NAME[:LEVEL]",
    default="lz4",
    show_default=True,
    help="Compression of the whole file: lz4, lz4hc, zstd or none. lz4hc has levels up to 12, and "
    "zstd up to 22, as in zstd:19. go-db reads lz4 and lz4hc.",
)


def split_names(columns: str | None) -> list[str] | None:
    """Split a comma-separated list of columns."""
    return None if columns is None else [name for name in columns.split(",") if name]


def parse_conditions(where: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the conditions of ``--where``, all of which must hold, as a mapping filter."""
    filters: list[dict[str, Any]] = []
    for condition in where:
        found = _CONDITION.fullmatch(condition)
        if found is None:
            raise InvalidOption(
                f"--where {condition!r} is no comparison",
                advice="write FIELD=VALUE, or another of != > >= < <= in quotes: 'age>30'",
            )
        name, sign, value = found[1].strip(), found[2], parse_literal(found[3].strip())
        filters.append({name: {_OPERATORS[sign]: value} if sign in _OPERATORS else value})
    if len(filters) < 2:
        return filters[0] if filters else None
    return {"$and": filters}


def reading_options(no_hints: bool) -> ReadKeywords:
    """Return the options of reading functions for an option of the command."""
    return {"use_hints": False} if no_hints else {}
