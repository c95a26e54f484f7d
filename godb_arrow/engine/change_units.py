"""Changes of a directory in units: each is one record of the journal, or one comparison."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np

from godb_arrow.directory.change_log import ADVICE
from godb_arrow.directory.records import LOST, TRANSACTION, UNLISTED, Record, sensible
from godb_arrow.engine.change_token import ChangeToken
from godb_arrow.errors import ChangesLost, VersionNotFound
from godb_arrow.snapshots.entry_runs import scan

__all__ = ["BegunUnit", "ChangeUnit", "Operation", "RecordReader", "Row", "net_rows"]

Operation = Literal["insert", "update", "upsert", "delete", "drop", "rename"]

Row = tuple[Operation, str, str | None, bytes | None, str | None]
"""Operation, collection, document id, document, and the new name of a renamed collection."""
Comparison = Callable[[Record], Iterator[tuple[str, bytes | None, bool]]]
"""Compares the version of a record with the version before."""


@dataclass(frozen=True, slots=True)
class ChangeUnit:
    """Changes that take effect together.

    Attributes
    ----------
    sequence : int
        Sequence number in the journal.
    time : datetime or None
        Time of the changes; None where it is unknown.
    rows : iterator or list of Row
        The changes in order.
    is_net : bool
        Whether they are the result of changes that are not listed.
    """

    sequence: int
    time: dt.datetime | None
    rows: list[Row] | Iterator[Row]
    is_net: bool = False


@dataclass(frozen=True, slots=True)
class BegunUnit:
    """Unit, or None, with its rows that were not returned, and the token after it."""

    unit: ChangeUnit | None
    rows: Iterator[tuple[Row, bool]]
    token: ChangeToken

    @classmethod
    def of(cls, unit: ChangeUnit | None, token: ChangeToken) -> BegunUnit:
        """Return a unit of which no row was returned."""
        return cls(unit, _with_last([] if unit is None else unit.rows), token)


class RecordReader:
    """Converts records of the journal to units of chosen collections.

    Parameters
    ----------
    compare : callable
        Compares versions.
    followed : str, optional
        Name of the only collection, which is followed when it is renamed.
    names : frozenset of str, optional
        Names of chosen collections, default all.

    Attributes
    ----------
    followed : str or None
        Current name of the followed collection.
    """

    def __init__(
        self, compare: Comparison, followed: str | None = None, names: frozenset[str] | None = None
    ) -> None:
        self._compare = compare
        self.followed = followed
        self._names = names

    def _has(self, name: str) -> bool:
        if self.followed is not None:
            return name == self.followed
        return self._names is None or name in self._names

    def unit(self, record: Record) -> ChangeUnit | None:
        """Return the changes of a record, or None if it changes no chosen document.

        Raises
        ------
        ChangesLost
            The record stands for changes that cannot be listed.
        """
        try:
            rows = self._rows(record)
            if rows is None:
                return None
            seconds = record.meta.get("t")
            time = None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)
            return ChangeUnit(record.number, time, rows, record.meta["op"] == UNLISTED)
        except Exception:  # A context for each record would take as long as the rest.
            with sensible(record):
                raise

    def _rows(self, record: Record) -> list[Row] | Iterator[Row] | None:
        meta = record.meta
        op = meta["op"]
        if op == "write":
            return _written(meta["c"], record, "t" in meta) if self._has(meta["c"]) else None
        if op == TRANSACTION:
            rows = [
                _written(part.meta["c"], part, "t" in meta)
                for part in record.of_collections()
                if self._has(part.meta["c"])
            ]
            return chain.from_iterable(rows) if rows else None
        if op == UNLISTED:
            return self._unlisted(record) if self._has(meta["c"]) else None
        if op == "drop":
            return [("drop", meta["c"], None, None, None)] if self._has(meta["c"]) else None
        if op == "rename":
            return self._renamed(meta["c"], meta["to"])
        if op == "attach":
            self._attached([*meta["files"]] if "files" in meta else [meta["c"]])
        if op == LOST:
            raise ChangesLost(
                f"changes {record.number} to {record.last} were lost by damage", advice=ADVICE
            )
        return None

    def _renamed(self, name: str, new_name: str) -> list[Row] | None:
        if self.followed is not None:
            if new_name == self.followed:
                raise ChangesLost(
                    f"the collection {name!r} was renamed to {new_name!r}", advice=ADVICE
                )
            if name != self.followed:
                return None
            self.followed = new_name
            return None
        if self._has(new_name) and not self._has(name):
            raise ChangesLost(f"the collection {name!r} was renamed to {new_name!r}", advice=ADVICE)
        return [("rename", name, None, None, new_name)] if self._has(name) else None

    def _attached(self, names: list[str]) -> None:
        for name in filter(self._has, names):
            raise ChangesLost(
                f"the collection {name!r} was loaded from a file, whose documents are not listed",
                advice=ADVICE,
            )

    def _unlisted(self, record: Record) -> Iterator[Row]:
        name, version = record.meta["c"], record.meta["v"]
        try:
            compared = self._compare(record)
        except VersionNotFound as error:
            raise ChangesLost(
                f"changes of the collection {name!r} are in no record of the journal, "
                f"and version {version} or the version before was removed",
                advice=ADVICE,
            ) from error
        return net_rows(name, compared)


def net_rows(name: str, compared: Iterator[tuple[str, bytes | None, bool]]) -> Iterator[Row]:
    """Yield changes for the documents that differ between two states."""
    for identity, document, existed in compared:
        if document is None:
            yield "delete", name, identity, None, None
        else:
            yield "update" if existed else "insert", name, identity, document, None


def _written(name: str, record: Record, is_labelled: bool) -> Iterator[Row]:
    """Return the changes of documents in a record of one collection, which is checked first."""
    meta = record.meta
    flags = _flags(meta, is_labelled)
    parts = zip(meta["k"], record.parts, strict=True)
    runs = [scan(part, count) for count, part in parts if count]
    operations = [flags(at) for at in range(sum(map(len, runs)))]
    deleted: list[str] = meta.get("d") or []
    documents = (
        (identity, run.document(index)) for run in runs for index, identity in enumerate(run.ids())
    )
    return chain(
        (
            (operation, name, identity, document, None)
            for operation, (identity, document) in zip(operations, documents, strict=True)
        ),
        (("delete", name, identity, None, None) for identity in deleted),
    )


def _flags(meta: dict[str, Any], is_labelled: bool) -> Callable[[int], Operation]:
    """Return a function that tells for each new document of a record whether it replaces one.

    Records of earlier versions do not say it.
    """
    replaced = meta.get("u")
    if not is_labelled:
        return lambda _: "upsert"
    if replaced is None:
        return lambda _: "insert"
    if replaced is True:
        return lambda _: "update"
    bits = np.unpackbits(np.frombuffer(replaced, np.uint8))
    return lambda index: "update" if bits[index] else "insert"


def _with_last(rows: Iterable[Row]) -> Iterator[tuple[Row, bool]]:
    """Yield rows, each with whether it is the last one."""
    if isinstance(rows, list):
        for row in rows[:-1]:
            yield row, False
        if rows:
            yield rows[-1], True
        return
    iterator = iter(rows)
    row = next(iterator, None)
    while row is not None:
        following = next(iterator, None)
        yield row, following is None
        row = following
