"""How things look in a notebook and on a terminal: small tables, sizes, progress bars."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Table", "progress_bar", "quantity"]


class Table:
    """A small table as HTML, with everything escaped and no script.

    Parameters
    ----------
    heads : sequence of str
        The columns' heads.
    caption : str
        What stands above.

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
        """The table as HTML."""
        parts = ["<table>"]
        if self._caption:
            parts.append(f"<caption>{html.escape(self._caption)}</caption>")
        parts.append(_row("th", self._heads))
        parts += [_row("td", row) for row in self._rows]
        return "".join([*parts, "</table>"])


def _row(kind: str, cells: Sequence[str]) -> str:
    style = ' style="text-align:left"'
    return f"<tr>{''.join(f'<{kind}{style}>{html.escape(cell)}</{kind}>' for cell in cells)}</tr>"


def quantity(count: float) -> str:
    """Bytes for people.

    Parameters
    ----------
    count : float
        Bytes.

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


@contextmanager
def progress_bar(
    total: int | None, *, unit: str = " documents", shown: bool = True
) -> Iterator[Callable[[int], Any]]:
    """A progress bar on a terminal or in a notebook.

    Parameters
    ----------
    total : int or None
        How much there is to do, where that is known.
    unit : str
        What is counted.
    shown : bool
        Whether there is a bar at all.

    Yields
    ------
    callable
        Called with how much was done since.
    """
    if not shown:
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(total=total, unit=unit, unit_scale=True, leave=False) as bar:
        yield bar.update
