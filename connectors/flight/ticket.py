"""Tickets, which are the requests of a Flight client, and their checks."""

from __future__ import annotations

import base64
import json
import logging
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from godb_arrow.arrow_compute import pc
from godb_arrow.errors import (
    InvalidOption,
    LimitExceeded,
)
from godb_arrow.query.extended_json import filter_from_json
from godb_arrow.query.filters import Filter, RowFilter, rows_where
from godb_arrow.schema import storage_schema

__all__ = ["filter_of_request", "parsed", "request_of"]


logger = logging.getLogger(__name__)

_MAX_TICKET_BYTES = 1 << 20
_KINDS: dict[str, type | tuple[type, ...]] = {
    "collection": str,
    "columns": list,
    "filter": dict,
    "fields": list,
    "substrait": str,
    "upsert": bool,
    "id_column": str,
    "generate_ids": bool,
    "end": bool,
}


def request_of(descriptor: fl.FlightDescriptor) -> dict[str, Any]:
    """Return the request in a descriptor."""
    if descriptor.descriptor_type == fl.DescriptorType.CMD:
        return parsed(descriptor.command)
    path = descriptor.path
    if not path or len(path) != 1:
        raise InvalidOption("the path is not a single name", advice="give the collection's name")
    return {"collection": path[0].decode("utf-8", "surrogateescape")}


def parsed(raw: bytes) -> dict[str, Any]:
    """Parse and check a ticket or command."""
    if len(raw) > _MAX_TICKET_BYTES:
        raise LimitExceeded(f"the ticket has {len(raw)} bytes", advice="send a smaller request")
    try:
        request = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise InvalidOption("the ticket is not JSON", advice="see the documentation") from error
    if not isinstance(request, dict) or not isinstance(request.get("collection"), str):
        raise InvalidOption("the ticket names no collection", advice='give {"collection": …}')
    for key, value in request.items():
        if key not in _KINDS or (value is not None and not isinstance(value, _KINDS[key])):
            raise InvalidOption(f"the ticket has an invalid {key!r}", advice="omit it")
    for key in ("columns", "fields"):
        if any(not isinstance(name, str) for name in request.get(key) or ()):
            raise InvalidOption(f"the ticket's {key!r} has invalid names", advice="give strings")
    return request


def filter_of_request(wanted: dict[str, Any]) -> Filter | None:
    """Return the filter of a request, or None."""
    if wanted.get("substrait") is None:
        condition: Filter | None = filter_from_json(wanted.get("filter"))
        return condition
    import pyarrow.substrait

    try:
        raw = base64.b64decode(wanted["substrait"], validate=True)
        bound = pyarrow.substrait.deserialize_expressions(raw)
        (expression,) = bound.expressions.values()
    except (ValueError, pa.ArrowException, NotImplementedError) as error:
        raise InvalidOption(
            f"the expression is invalid: {error}", advice="use a filter of values"
        ) from error
    return RowFilter(wanted.get("fields") or [], lambda batch: _kept(batch, expression))


def _kept(batch: pa.RecordBatch, expression: pc.Expression) -> pa.Array:
    kept = np.zeros(batch.num_rows, bool)
    kept[rows_where(batch.cast(storage_schema(batch.schema)), expression).to_numpy()] = True
    return pa.array(kept)
