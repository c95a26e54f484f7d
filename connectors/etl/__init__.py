"""Copies between files, folders, data directories, tables and databases."""

from __future__ import annotations

from godb_arrow.connectors.etl.pipeline import CopySummary, copy

__all__ = ["CopySummary", "copy"]
