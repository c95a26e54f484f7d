"""Collections over Arrow Flight: a server, and a client for it."""

from __future__ import annotations

from godb_arrow.connectors.flight.client import RemoteCollection, RemoteEngine, connect
from godb_arrow.connectors.flight.server import FlightServer

__all__ = ["FlightServer", "RemoteCollection", "RemoteEngine", "connect"]
