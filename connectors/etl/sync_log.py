"""Logs of changes as targets of incremental copies: NDJSON files that grow."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from godb_arrow.connectors.etl.base import Count
from godb_arrow.connectors.etl.sync import LogTarget, Moved, line_of, refuse_others
from godb_arrow.connectors.etl.targets import FileTarget
from godb_arrow.documents.json_lines import json_lines, runs_of
from godb_arrow.engine.changes import ChangeFeed
from godb_arrow.errors import CorruptFile
from godb_arrow.options import IfExists
from godb_arrow.schema import ID_FIELD
from godb_arrow.snapshots.versions import CollectionVersion

__all__ = ["opened_log"]

_HEADER = b'{"format":"changes of godb_arrow","version":1}\n'
_TOKEN_START = b'{"token":"'
_CHANGE_START = b'{"operation":'
_BLOCK_BYTES = 1 << 20


def opened_log(to: FileTarget, if_exists: IfExists) -> Iterator[LogTarget]:
    """Open a file that gets changes; the caller has locked it.

    Raises
    ------
    TargetExists
        The file has other lines, without ``if_exists="replace"``.
    """
    if os.path.exists(to.place) and os.path.getsize(to.place):
        with open(to.place, "rb") as stream:
            start = stream.read(len(_HEADER))
        if not _HEADER.startswith(start):
            if if_exists == "error":
                raise refuse_others()
            os.unlink(to.place)
    with open(to.place, "a+b") as stream:
        yield _NdjsonLog(stream, if_exists)


class _NdjsonLog(LogTarget):
    """NDJSON file with one change for each line, and a line with the token after each copy."""

    def __init__(self, stream: BinaryIO, if_exists: IfExists) -> None:
        self._stream, self._if_exists = stream, if_exists

    def token(self) -> str | None:
        """Return the last token, and cut off what a killed copy left after it."""
        end, token = self._last_token()
        if self._stream.seek(0, io.SEEK_END) > end:
            self._stream.seek(end)
            line = self._stream.readline()
            ours = _CHANGE_START, _TOKEN_START, _HEADER
            is_ours = any(line.startswith(s) or s.startswith(line) for s in ours)
            if not is_ours and self._if_exists == "error":
                raise refuse_others()
            self._stream.truncate(end)
        return token

    def _last_token(self) -> tuple[int, str | None]:
        """Return the end of the last whole line with a token, and the token."""
        size = at = self._stream.seek(0, io.SEEK_END)
        tail = b""
        while at > 0:
            start = max(0, at - _BLOCK_BYTES)
            self._stream.seek(start)
            tail = self._stream.read(at - start) + tail[: _BLOCK_BYTES // 2]
            found = tail.rfind(b"\n" + _TOKEN_START)
            while found >= 0:
                self._stream.seek(start + found + 1)
                line = self._stream.readline()
                if line.endswith(b"}\n"):
                    return start + found + 1 + len(line), self._parsed(line)
                found = tail.rfind(b"\n" + _TOKEN_START, 0, found)
            at = start
        self._stream.seek(0)
        is_begun = size >= len(_HEADER) and self._stream.read(len(_HEADER)) == _HEADER
        return len(_HEADER) if is_begun else 0, None

    def _parsed(self, line: bytes) -> str:
        try:
            return str(json.loads(line)["token"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorruptFile(
                "the last token is damaged", offset=0, where="file", advice="copy to a new file"
            ) from error

    def begin(self, source: CollectionVersion, count: Count) -> Moved:
        is_new = self._stream.seek(0, io.SEEK_END) == 0
        if is_new:
            self._stream.write(_HEADER)
        moved = Moved()

        def lines() -> Iterator[dict[str, Any]]:
            if self._stream.tell() > len(_HEADER):
                yield {"operation": "reset"}
            for document in source:
                moved.documents += 1
                yield {"operation": "insert", "id": document[ID_FIELD], "document": document}

        self._append(lines(), lambda: source.token or "", count)
        return moved

    def append(self, feed: ChangeFeed, count: Count) -> Moved:
        moved = Moved()

        def lines() -> Iterator[dict[str, Any]]:
            for change in feed:
                moved.documents += change.document is not None
                moved.deleted += change.document is None
                yield line_of(change)

        before = feed.token
        self._append(lines(), lambda: feed.token, count, unless=before)
        return moved

    def _append(
        self,
        lines: Iterator[dict[str, Any]],
        token: Callable[[], str],
        count: Count,
        unless: str | None = None,
    ) -> None:
        """Write lines, and then the token: it is there only if all lines are."""
        stream = self._stream
        for text, number in json_lines(runs_of(lines)):
            stream.write(text)
            count(number)
        stream.flush()
        os.fsync(stream.fileno())
        if token() != unless:
            stream.write(_TOKEN_START + token().encode() + b'"}\n')
            stream.flush()
            os.fsync(stream.fileno())
