"""dlt: collections as a source of its pipelines, and data directories as their destination.

``godb_source`` reads files and data directories, and later only what changed. ``godb_destination``
writes data directories. The extra is ``dlt``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from godb_arrow.connectors.dlt.destination import godb_destination
    from godb_arrow.connectors.dlt.source import godb_source

__all__ = ["godb_destination", "godb_source"]


def __getattr__(name: str) -> Any:
    """Import a public name at its first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{name.removeprefix('godb_')}")
    globals()[name] = getattr(module, name)
    return globals()[name]
