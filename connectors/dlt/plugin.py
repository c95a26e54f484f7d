"""Plugin of dlt, which knows the destination ``"godb"`` by its name.

The entry point ``godb_arrow`` of the group ``dlt`` names this module, and dlt imports it. Then
``dlt.pipeline(destination="godb")`` takes the path from the configuration of dlt.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import dlt
from dlt.common.destination.reference import DestinationReference

from godb_arrow.connectors.dlt.settings import SETTINGS

__all__ = ["godb"]


def _load(
    items: str,
    table: Mapping[str, Any],
    path: str = dlt.config.value,
    keep_nulls: bool = False,
) -> None:
    """Load one file of dlt into a data directory."""
    from godb_arrow.connectors.dlt.destination import load_file  # imports the engine

    load_file(path, items, table, keep_nulls=keep_nulls)


godb: Any = dlt.destination(_load, name="godb", **SETTINGS)
"""Destination whose path is the option ``destination.godb.path`` of dlt."""

DestinationReference.register(godb._factory, "godb")
