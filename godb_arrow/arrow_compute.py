"""Module ``pyarrow.compute``, imported when it is first used.

Its import creates a function for each of Arrow's kernels, which takes as long as all of
``godb_arrow``. Many commands and functions need none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow.compute as pc
else:

    class _Compute:
        """Stand-in that looks up each function once."""

        def __getattr__(self, name: str) -> Any:
            if name == "Expression":  # Its class alone takes little time.
                from pyarrow import _compute as module
            else:
                from pyarrow import compute as module
            found = getattr(module, name)
            setattr(self, name, found)
            return found

    pc = _Compute()

__all__ = ["pc"]
