"""Collections over Arrow Flight: a server, and a client for it.

The server needs grpcio. The client needs pyarrow only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from godb_arrow.connectors.flight.client import RemoteCollection, RemoteEngine, connect

if TYPE_CHECKING:
    from godb_arrow.connectors.flight.server import FlightServer

__all__ = ["FlightServer", "RemoteCollection", "RemoteEngine", "connect"]


def __getattr__(name: str) -> Any:
    if name == "FlightServer":
        from godb_arrow.connectors.flight.server import FlightServer

        return FlightServer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
