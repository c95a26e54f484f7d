"""Settings of the destination, which dlt reads at its start without importing the engine."""

from __future__ import annotations

from typing import Any

__all__ = ["SETTINGS"]

SETTINGS: dict[str, Any] = {
    "loader_file_format": "parquet",
    "batch_size": 0,  # dlt gives the paths of files
    "naming_convention": "direct",
    "loader_parallelism_strategy": "sequential",  # one file at a time
}
"""Options of ``dlt.destination``."""
