"""Documents that several threads encode in blocks, with ids in the order of the source."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from godb_arrow import codec
from godb_arrow.documents.encoding import Encoded, check_sizes
from godb_arrow.documents.ids import IdSequence, id_of
from godb_arrow.errors import InvalidDocument
from godb_arrow.schema import ID_FIELD

__all__ = ["BlockRun", "Turns"]


class Turns:
    """Turns of the threads that work on blocks, in the order of the blocks."""

    def __init__(self) -> None:
        self._next = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, number: int) -> Iterator[None]:
        """Wait until all blocks before this one had their turn."""
        with self._changed:
            while self._next != number:
                self._changed.wait()
        try:
            yield
        finally:
            with self._changed:
                self._next = number + 1
                self._changed.notify_all()


class BlockRun:
    """Documents of a block and their ids.

    Parameters
    ----------
    documents : Documents
        The documents.
    id_field : str
        Field with the ids.
    """

    def __init__(self, documents: codec.Documents, id_field: str) -> None:
        self._documents = documents
        self._found = codec.Identification(documents, id_field)
        self._id_field = id_field
        self.count = len(documents)
        self._is_given = not len(self._found.generated) and self._found.invalid < 0
        self._entries = self._found.entries(np.empty(0, np.int64)) if self._is_given else None
        self._greatest = 0 if self._entries is None else codec.survey_ids(self._entries[1])[1]
        self._numbers = np.empty(0, np.int64)

    def take_ids(self, sequence: IdSequence, first: int) -> None:
        """Take the ids of the documents that have none; call it in the order of the runs."""
        generated = self._found.generated
        self._check(first)
        if self._is_given:
            sequence.see_number(self._greatest)
        elif len(generated) == self.count:
            number = sequence.reserve(self.count)
            self._numbers = np.arange(number, number + self.count, dtype=np.int64)
        else:
            numbers = np.zeros(len(generated), np.int64)
            ids = self._found.entries(numbers)[1].to_pylist()
            missing = {int(row): index for index, row in enumerate(generated)}
            for row, raw in enumerate(ids):
                if row in missing:
                    numbers[missing[row]] = sequence.reserve(1)
                else:
                    sequence.see_number(codec.id_number(raw))
            self._numbers = numbers

    def _check(self, first: int) -> None:
        """Raise the error of a document without a valid id."""
        generated, invalid = self._found.generated, self._found.invalid
        if self._id_field != ID_FIELD and len(generated):
            missing = int(generated[0])
            if invalid < 0 or missing < invalid:
                raise InvalidDocument(
                    f"document number {first + missing} has no field {self._id_field!r} for its id",
                    advice=f"give every document a field {self._id_field!r}, or omit id_column",
                )
        if invalid >= 0:
            document = codec.load(self._documents.document(invalid))
            id_of(document[self._id_field], f"document number {first + invalid}")

    def encode(self, limit: int) -> Encoded:
        """Return the entries."""
        entries, ids = self._entries or self._found.entries(self._numbers)
        check_sizes(np.diff(np.frombuffer(entries.bounds, np.int64)[::2]), ids, limit)
        generated = self._found.generated
        given = len(generated) < self.count
        return Encoded(
            entries.data,
            ids,
            given,
            generated=array("I", generated.tobytes()) if given else range(self.count),
            bounds=entries.bounds,
        )
