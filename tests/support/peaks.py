"""Peaks of the memory that a call takes, counted by Python and Arrow."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable

import pyarrow as pa

__all__ = ["peak_bytes"]


def peak_bytes(function: Callable[[], object]) -> int:
    """Return the peak of the bytes of Python and Arrow while a function runs."""
    former = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(former)
    gc.collect()
    pa.set_memory_pool(pool)
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] + int(pool.max_memory())
    finally:
        tracemalloc.stop()
        pa.set_memory_pool(former)
