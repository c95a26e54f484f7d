"""Tickets: the requests that a Flight client sends, checked."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.flight as fl

from godb_arrow.errors import (
    InvalidOption,
    LimitExceeded,
)
from godb_arrow.query.extended_json import filter_from_json
from godb_arrow.query.filters import Filter, RowFilter, rows_where
from godb_arrow.schema import storage_schema

__all__ = ["filter_of_request", "parsed", "request_of"]


logger = logging.getLogger(__name__)

_LONGEST_TICKET = 1 << 20


def request_of(descriptor: fl.FlightDescriptor) -> dict[str, Any]:
    """Return the request that a descriptor holds."""
    if descriptor.descriptor_type == fl.DescriptorType.CMD:
        return parsed(descriptor.command)
    path = descriptor.path
    if not path or len(path) != 1:
        raise InvalidOption("the path is not one name", advice="give the collection's name")
    return {"collection": path[0].decode("utf-8", "surrogateescape")}


_KINDS: dict[str, type | tuple[type, ...]] = {
    "collection": str, "columns": list, "filter": dict, "fields": list, "substrait": str,
    "mode": str, "id_column": str, "generate_ids": bool, "end": bool,
}  # fmt: skip


def parsed(raw: bytes) -> dict[str, Any]:
    """A ticket or command, checked."""
    if len(raw) > _LONGEST_TICKET:
        raise LimitExceeded(f"the ticket has {len(raw)} bytes", advice="ask for less")
    try:
        found = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidOption("the ticket is not JSON", advice="see the documentation") from error
    if not isinstance(found, dict) or not isinstance(found.get("collection"), str):
        raise InvalidOption("the ticket names no collection", advice='give {"collection": …}')
    for key, value in found.items():
        if key not in _KINDS or (value is not None and not isinstance(value, _KINDS[key])):
            raise InvalidOption(f"the ticket's {key!r} is not understood", advice="leave it out")
    for key in ("columns", "fields"):
        if any(not isinstance(name, str) for name in found.get(key) or ()):
            raise InvalidOption(f"the ticket's {key!r} are not all names", advice="give strings")
    return found


def filter_of_request(wanted: dict[str, Any]) -> Filter | None:
    """Return the filter of a request, or None."""
    if wanted.get("substrait") is None:
        found: Filter | None = filter_from_json(wanted.get("filter"))
        return found
    import pyarrow.substrait

    try:
        raw = base64.b64decode(wanted["substrait"], validate=True)
        bound = pyarrow.substrait.deserialize_expressions(raw)
        (expression,) = bound.expressions.values()
    except (ValueError, pa.ArrowException, NotImplementedError) as error:
        raise InvalidOption(
            f"the expression is not understood: {error}", advice="use a filter of values"
        ) from error
    return RowFilter(wanted.get("fields") or [], lambda batch: _kept(batch, expression))


def _kept(batch: pa.RecordBatch, expression: pc.Expression) -> pa.Array:
    kept = np.zeros(batch.num_rows, bool)
    kept[rows_where(batch.cast(storage_schema(batch.schema)), expression).to_numpy()] = True
    return pa.array(kept)
