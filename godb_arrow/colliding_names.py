"""Detection of names that collide in the hash tables of Arrow's schemas.

Arrow indexes the fields of a schema and of a struct by ``std::hash``, which has no secret. A
stranger can choose keys with equal hashes, and the time to make a schema of them grows with the
square of their number. Documents have no such limit, so only their columns are limited.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["MAX_UNCHECKED_NAMES", "first_names", "names_collide"]

MAX_UNCHECKED_NAMES = 1000
"""Number of names that are harmless even if all of them collide."""

_MAX_MEAN_CHAIN = 16  # names that a name is compared with; 2 for random names
_MULTIPLIER = 0xC6A4A7935BD1E995  # of the hash of libstdc++, MurmurHash64A
_SEED = 0xC70F6907
_WORD_BYTES = 8
_FULL_WORD = (1 << 64) - 1
_BUCKETS = (1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933)  # of growing tables of libstdc++


def names_collide(names: Collection[str]) -> bool:
    """Return whether a schema of these names would take time out of proportion.

    Parameters
    ----------
    names : collection of str
        Names of fields, in the order of the schema.

    Examples
    --------
    >>> names_collide([str(number) for number in range(5000)])
    False
    """
    if len(names) <= MAX_UNCHECKED_NAMES:
        return False
    hashes = _hashes([name.encode("utf-8", "surrogatepass") for name in names])
    smallest = next((count for count in _BUCKETS if count >= len(hashes)), _BUCKETS[-1])
    for buckets in _BUCKETS[: _BUCKETS.index(smallest) + 1]:
        in_table = hashes[:buckets]
        chains = np.bincount((in_table % np.uint64(buckets)).astype(np.int64))
        if int((chains * chains).sum()) > _MAX_MEAN_CHAIN * len(in_table):
            return True
    return False


def first_names(names: Collection[str]) -> list[str]:
    """Return the names that become fields, of names that collide."""
    return list(islice(names, MAX_UNCHECKED_NAMES))


def _hashes(names: list[bytes]) -> npt.NDArray[np.uint64]:
    """Return the hash of each name, as ``std::hash`` of libstdc++ computes it."""
    indices: dict[int, list[int]] = {}
    for index, name in enumerate(names):
        indices.setdefault(len(name), []).append(index)
    hashes = np.empty(len(names), np.uint64)
    for size, group in indices.items():
        hashes[group] = _hashes_of_size([names[index] for index in group], size)
    return hashes


def _hashes_of_size(names: list[bytes], size: int) -> npt.NDArray[np.uint64]:
    words, rest = divmod(size, _WORD_BYTES)
    padded = np.zeros((len(names), (words + 1) * _WORD_BYTES), np.uint8)
    padded[:, :size] = np.frombuffer(b"".join(names), np.uint8).reshape(len(names), size)
    columns = padded.view("<u8").astype(np.uint64).T
    multiplier, shift = np.uint64(_MULTIPLIER), np.uint64(47)
    hashes = np.full(len(names), _SEED ^ (size * _MULTIPLIER & _FULL_WORD), np.uint64)
    for word in columns[:words]:
        mixed = word * multiplier
        hashes = (hashes ^ (mixed ^ (mixed >> shift)) * multiplier) * multiplier
    if rest:
        hashes = (hashes ^ columns[words]) * multiplier
    hashes = (hashes ^ (hashes >> shift)) * multiplier
    found: npt.NDArray[np.uint64] = hashes ^ (hashes >> shift)
    return found
