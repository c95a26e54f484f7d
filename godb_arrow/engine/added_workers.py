"""Background workers that other packages add by entry points."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from godb_arrow.errors import InvalidOption
from godb_arrow.extensions import extension, extension_names

__all__ = ["added_worker"]

_GROUP = "godb_arrow.workers"


def added_worker(engine: object, name: str, interval: Any) -> tuple[Any, Callable[[], Any]]:
    """Return the interval and the function of a worker that another package adds.

    Parameters
    ----------
    engine : StorageEngine
        Argument of the worker's function. It is not kept alive.
    name : str
        Name of the entry point.
    interval : float, timedelta, str or None
        Time between two calls; None for the worker's own.

    Raises
    ------
    InvalidOption
        No package adds a worker of this name, or its object lacks an attribute.
    """
    added = extension(_GROUP, name)
    if added is None:
        known = ", ".join(extension_names(_GROUP)) or "none"
        raise InvalidOption(
            f"there is no function for the worker {name!r}",
            advice=f"give an interval and a function (workers of other packages: {known})",
        )
    run = getattr(added, "run", None)
    interval = getattr(added, "interval", None) if interval is None else interval
    if not callable(run) or interval is None:
        raise InvalidOption(
            f"the extension {name!r} is no worker",
            advice="it needs an interval and a function run(engine)",
        )
    known_engine = weakref.ref(engine)

    def call() -> None:
        running = known_engine()
        if running is not None:
            run(running)

    return interval, call
