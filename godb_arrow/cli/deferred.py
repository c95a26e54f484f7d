"""Modules that commands import at the first use of a name inside, and not before."""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from threading import RLock
from types import ModuleType
from typing import Any

__all__ = ["defer"]

_READ_BY_IMPORTS = frozenset({"__spec__", "__class__", "__name__", "__loader__"})
_LOCK = RLock()


class _DeferredModule(ModuleType):
    """Module that is executed at the first use of one of its names.

    The class of the same kind in :mod:`importlib.util` lets a second thread see a module without
    names, in versions of Python before 3.11.8 and 3.12.2.
    """

    def __getattribute__(self, name: str) -> Any:
        if name not in _READ_BY_IMPORTS:
            with _LOCK:
                _execute(self)
        return ModuleType.__getattribute__(self, name)


_executed: set[str] = set()


def _execute(module: ModuleType) -> None:
    """Execute a deferred module, unless that is done, or this thread is at it."""
    name = ModuleType.__getattribute__(module, "__name__")
    if name in _executed:
        return
    _executed.add(name)
    try:
        ModuleType.__getattribute__(module, "__spec__").loader.exec_module(module)
    except BaseException:
        _executed.discard(name)
        raise
    module.__class__ = ModuleType


def defer(*names: str) -> None:
    """Let modules be executed at the first use of a name inside.

    Parameters
    ----------
    *names : str
        Names of top-level modules. A name that is imported already, or missing, changes nothing.

    Examples
    --------
    >>> defer("colorsys")
    >>> import colorsys
    >>> colorsys.rgb_to_hsv(0.0, 0.0, 1.0)[1:]
    (1.0, 1.0)
    """
    for name in names:
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None and spec.loader is not None:
            module = module_from_spec(spec)
            module.__class__ = _DeferredModule
            sys.modules[name] = module
