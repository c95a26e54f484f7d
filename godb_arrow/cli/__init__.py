"""Command ``godb-arrow``."""

from __future__ import annotations

from godb_arrow.cli.command import main

__all__ = ["main"]
