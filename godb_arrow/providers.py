"""Modules that provide a job to packages on lower floors, by name.

The root package names them. So a collection answers SQL without importing a connector.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["provide", "provider"]

_modules: dict[str, str] = {}


def provide(job: str, module: str) -> None:
    """Name the module that provides a job; it is imported at the first use."""
    _modules[job] = module


def provider(job: str) -> Any:
    """Import the module that provides a job.

    Parameters
    ----------
    job : str
        Name of the job, such as "sql".
    """
    return importlib.import_module(_modules[job])
