"""Small HTML tables, sizes and progress bars for notebooks and terminals."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "Table",
    "TableList",
    "kind_of",
    "plural",
    "printable",
    "progress_bar",
    "quantity",
    "table_of",
    "vars_of",
    "without_secrets",
]


Item = TypeVar("Item", bound=Any)
_MAX_TABLE_ROWS = 100
_MIN_SECRET = 4  # characters of a password that is replaced where it stands alone
_PASSWORD = re.compile(r"(\w://[^\s:/@]*):([^\s/]*)@")
_QUERY = re.compile(r"(\w://[^\s?'\"]*)\?(?:[^\s'\"#;:]|:\b)*=(?:[^\s'\"#;:]|:\b)*")


class Table:
    """Small HTML table without scripts, with all text escaped.

    Parameters
    ----------
    heads : sequence of str
        Headings of the columns.
    caption : str
        Caption above the table.

    Examples
    --------
    >>> table = Table(["name"])
    >>> table.add("<users>")
    >>> "&lt;users&gt;" in table.html()
    True
    """

    def __init__(self, heads: Sequence[str], caption: str = "") -> None:
        self._heads = list(heads)
        self._caption = caption
        self._rows: list[list[str]] = []

    def add(self, *cells: object) -> None:
        """Add a row."""
        self._rows.append([str(cell) for cell in cells])

    def html(self) -> str:
        """Return the table as HTML."""
        parts = ["<table>"]
        if self._caption:
            parts.append(f"<caption>{_escaped(self._caption)}</caption>")
        parts.append(_row("th", self._heads))
        parts += [_row("td", row) for row in self._rows]
        return "".join([*parts, "</table>"])


def table_of(caption: str, values: Mapping[str, object]) -> str:
    """Return names and values as an HTML table."""
    table = Table(["", ""], caption)
    for name, value in values.items():
        table.add(name.replace("_", " "), "" if value is None else value)
    return table.html()


def vars_of(instance: Any) -> dict[str, object]:
    """Return the fields of a dataclass by name."""
    return {field.name: getattr(instance, field.name) for field in fields(instance)}


class TableList(list[Item]):
    """List of descriptions, which a notebook shows as one table.

    The items have ``HEADS``, the headings of their columns, and ``cells()``.
    """

    def _repr_html_(self) -> str:
        if not self:
            return "<p>none</p>"
        table = Table(self[0].HEADS)
        for item in self[:_MAX_TABLE_ROWS]:
            table.add(*item.cells())
        if len(self) > _MAX_TABLE_ROWS:
            table.add(f"… and {len(self) - _MAX_TABLE_ROWS} more")
        return table.html()


def _row(kind: str, cells: Sequence[str]) -> str:
    style = ' style="text-align:left"'
    return f"<tr>{''.join(f'<{kind}{style}>{_escaped(cell)}</{kind}>' for cell in cells)}</tr>"


def _escaped(text: str) -> str:
    import html

    return html.escape(text)


def kind_of(value: object) -> str:
    """Return the name of a value's type with its article, for messages.

    Examples
    --------
    >>> kind_of(5), kind_of({})
    ('an int', 'a dict')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def printable(text: str, *, keep: str = "") -> str:
    """Return text with control characters as escape sequences of Python.

    Documents and names of strangers must not control a terminal, nor forge lines of a report.

    Parameters
    ----------
    text : str
        Text to print.
    keep : str
        Control characters that are kept, none by default.

    Examples
    --------
    >>> printable("\\x1b[2J")
    '\\\\x1b[2J'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else repr(c)[1:-1] for c in text)


def without_secrets(text: str, url: str = "") -> str:
    """Return text with ``***`` for the passwords and the query values of URLs in it.

    Parameters
    ----------
    text : str
        Text to print.
    url : str
        URL whose password may stand alone in the text, too.

    Examples
    --------
    >>> without_secrets("open postgresql://ada:secret@host/shop?sslcert=a: no route")
    'open postgresql://ada:***@host/shop?***: no route'
    """
    if "://" in url and (found := _PASSWORD.search(url)) and len(found[2]) >= _MIN_SECRET:
        text = text.replace(found[2], "***")
    if "://" not in text:
        return text
    return _QUERY.sub(r"\1?***", _PASSWORD.sub(r"\1:***@", text))


def quantity(count: float) -> str:
    """Format a number of bytes for people.

    Parameters
    ----------
    count : float
        Number of bytes.

    Examples
    --------
    >>> quantity(1536)
    '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def plural(number: int, noun: str) -> str:
    """Format a number of things for people.

    Parameters
    ----------
    number : int
        Number of things.
    noun : str
        Name of one thing, with a plural in "s".

    Examples
    --------
    >>> plural(1, "document"), plural(27004, "document")
    ('1 document', '27,004 documents')
    """
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _has_screen() -> bool:
    """Return whether progress can be seen, on a terminal or in a notebook."""
    if sys.stderr is not None and sys.stderr.isatty():
        return True
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return shell is not None and hasattr(shell, "kernel")


@contextmanager
def progress_bar(
    total: int | None, *, unit: str = " documents", shown: bool = True
) -> Iterator[Callable[[int], Any]]:
    """Show a progress bar on a terminal or in a notebook.

    Parameters
    ----------
    total : int or None
        Amount of work; None where it is not known.
    unit : str
        Unit of the amount.
    shown : bool
        Whether to show the bar.

    Yields
    ------
    callable
        Function to call with the amount of work done since the last call.
    """
    if not shown or not _has_screen():
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, leave=False) as bar:
        yield bar.update
