"""File that marks a data directory as a follower."""

from __future__ import annotations

import json
import logging
from typing import Any

from godb_arrow.directory.identity import is_identity
from godb_arrow.directory.names import is_stored_name
from godb_arrow.errors import (
    CorruptFile,
    SourceNotFound,
)
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.limited import read_limited

__all__ = ["FOLLOWER_FILE", "read_follower_file"]


logger = logging.getLogger(__name__)

FOLLOWER_FILE = "follower.json"
_MAX_FILE_BYTES = 256 << 20


def read_follower_file(path: str) -> dict[str, Any] | None:
    """Read the file of a follower, or return None if the directory is no follower.

    Its ``identity`` is the identity of the directory that it follows. A file of version 0.1.0 has
    none.

    Raises
    ------
    CorruptFile
        The file is damaged.
    """
    folder = open_folder(path)
    file = folder.place(FOLLOWER_FILE)
    try:
        with folder.open(FOLLOWER_FILE) as stream:
            data = read_limited(stream, _MAX_FILE_BYTES)
        if len(data) > _MAX_FILE_BYTES:
            raise ValueError(f"it has more than {_MAX_FILE_BYTES} bytes")
        content = json.loads(data)
        return {
            "source": str(content["source"]),
            "identity": _checked_identity(content.get("identity")),
            "consistent": bool(content["consistent"]),
            "caught_up": None if content["caught_up"] is None else float(content["caught_up"]),
            "record": int(content["record"]),
            "promoting": bool(content.get("promoting", False)),
            "files": {
                _checked_path(name): (int(size), int(changed))
                for name, (size, changed) in content.get("files", {}).items()
            },
        }
    except SourceNotFound:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CorruptFile(
            f"{file} is damaged: {error!r}",
            offset=0,
            where="file",
            advice="follow again into another folder",
        ) from error


def _checked_identity(identity: str | None) -> str | None:
    """Return the identity of a source, which a follower of version 0.1.0 does not know."""
    if identity is not None and not is_identity(identity):
        raise ValueError(f"invalid identity {identity!r}")
    return identity


def _checked_path(name: str) -> str:
    """Check that a name is one that collections' files have, and return it."""
    if not is_stored_name(name):
        raise ValueError(f"impossible file name {name!r}")
    return name
