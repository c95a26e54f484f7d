"""Packages with entry points, installed for one test."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from godb_arrow import extensions
from godb_arrow.codec import compression

__all__ = ["install"]


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, text: str, **entries: str
) -> None:
    """Install a package of one module for the rest of a test.

    Parameters
    ----------
    folder : path
        Folder of the packages.
    monkeypatch : pytest.MonkeyPatch
        Removes the package after the test.
    module : str
        Name of the module.
    text : str
        Its source.
    **entries
        Entry points, such as ``formats="toml = my_module:Toml"``.
    """
    (folder / f"{module}.py").write_text(text)
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    groups = [f"[godb_arrow.{kind}]\n{entry}\n" for kind, entry in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(groups))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, module, raising=False)
    importlib.invalidate_caches()
    forget()


def forget() -> None:
    """Forget the extensions that were found."""
    extensions._entries.cache_clear()
    extensions._load.cache_clear()
    compression._compression.cache_clear()
