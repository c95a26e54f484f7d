"""Files on object stores: read by what never changes under a reader, written on a condition."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
import tempfile
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal

from godb_arrow.errors import (
    GodbError,
    InvalidOption,
    SourceNotFound,
    StorageError,
    WriteConflict,
    storage_errors,
)

__all__ = ["Absent", "Expected", "LocalCopy", "RemoteStore", "is_url"]


Absent = Literal["absent"]
"""Nothing may be there yet."""

Expected = str | Absent | None
"""The version that is replaced, nothing at all, or (None) whatever is there."""


_checking = threading.Lock()  # of a store that has no conditions: its version, until it is written


def is_url(name: str) -> bool:
    """Whether a name is a URL of something else than local files.

    Examples
    --------
    >>> is_url("s3://bucket/users.godb"), is_url("users.godb"), is_url("file:///users.godb")
    (True, False, False)
    """
    return "://" in name and not name.startswith("file://")


@contextmanager
def _remote_errors(operation: str, url: str) -> Iterator[None]:
    """Object stores raise errors of many libraries; all of them become ours."""
    try:
        with storage_errors(operation, url):
            yield
    except GodbError:
        raise
    except Exception as error:
        raised = StorageError(
            f"{type(error).__name__}: {error}", advice="check the connection and the credentials"
        )
        raised.operation, raised.source = operation, url
        raise raised from error


class RemoteStore:
    """What fsspec can do with one URL and those below it.

    Parameters
    ----------
    url : str
        Such as ``"s3://bucket/folder"``.

    Raises
    ------
    InvalidOption
        fsspec does not know the protocol, or its package is not installed.

    Examples
    --------
    >>> store = RemoteStore("memory://remote-example/a")
    >>> store.put(__file__, expected="absent") == store.version()
    True
    >>> store.remove()
    >>> store.version() is None
    True
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = url
        try:
            self.filesystem, self.path = fsspec.core.url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise InvalidOption(f"cannot open {url}: {error}") from error

    def info(self) -> dict[str, Any]:
        """What the store says of it, now."""
        with _remote_errors("look at", self.url):
            self.filesystem.invalidate_cache()
            found: dict[str, Any] = self.filesystem.info(self.path)
            return found

    def version(self) -> str | None:
        """What changes whenever the content does; None when nothing is there."""
        try:
            return self._version_in(self.info())
        except SourceNotFound:
            return None

    def _version_in(self, info: dict[str, Any]) -> str:
        for key in ("ETag", "etag", "generation"):
            if info.get(key) is not None:
                return str(info[key])
        found: str = self.filesystem.ukey(self.path)
        return found

    def size(self) -> int | None:
        """Bytes, where that is known."""
        size = self.info().get("size")
        return None if size is None else int(size)

    def modified(self) -> float | None:
        """When it was written, in seconds since 1970, where that is known."""
        info = self.info()
        for key in ("LastModified", "created", "updated", "mtime"):
            when = info.get(key)
            if isinstance(when, dt.datetime):
                return float(when.timestamp())
        return None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """It at its beginning, read piece by piece."""
        with _remote_errors("open", self.url):
            stream = self.filesystem.open(self.path, "rb")
        with _remote_errors("read", self.url), stream:
            yield stream

    def read(self, start: int, end: int) -> bytes:
        """Some of its bytes."""
        with _remote_errors("read", self.url):
            found: bytes = self.filesystem.cat_file(self.path, start=start, end=end)
            return found

    def fetch(self, local: str) -> None:
        """All of it, into a local file, which is written as it is."""
        with _remote_errors("read", self.url):
            self.filesystem.get_file(self.path, local)

    def put(self, local: str, *, expected: Expected = None) -> str:
        """Upload a local file in its place, at once or not at all.

        Parameters
        ----------
        local : path
            The file.
        expected : str, "absent" or None
            What must be there now.

        Returns
        -------
        str
            Its version.

        Raises
        ------
        WriteConflict
            Somebody else wrote it meanwhile.
        StorageError
            The store refused.
        """
        with _remote_errors("write", self.url):
            if expected is None:
                self.filesystem.put_file(local, self.path)
            elif self._has_conditions:
                self._put_on_condition(local, expected)
            else:
                # Such as memory://, which one process has.
                with _checking:
                    if (self.version() or "absent") != expected:
                        raise self._conflict()
                    self.filesystem.put_file(local, self.path)
        version = self.version()
        if version is None:
            raise StorageError("it is not there after it was written")
        return version

    @property
    def _has_conditions(self) -> bool:
        return hasattr(self.filesystem, "call_s3")

    def _put_on_condition(self, local: str, expected: str) -> None:
        """S3 compares and swaps: If-None-Match and If-Match."""
        bucket, key, _ = self.filesystem.split_path(self.path)
        condition = {"IfNoneMatch": "*"} if expected == "absent" else {"IfMatch": expected}
        try:
            with open(local, "rb") as body:
                self.filesystem.call_s3(
                    "put_object", Bucket=bucket, Key=key, Body=body, **condition
                )
        except OSError as error:
            if _status(error) not in (404, 409, 412):
                raise
            # An answer may have been lost, so that what is there is what we wrote.
            if self.version() == f'"{_md5(local)}"':
                return
            raise self._conflict() from error

    def _conflict(self) -> WriteConflict:
        conflict = WriteConflict(
            "somebody else wrote it since it was read",
            advice="read it again, and repeat the change",
        )
        conflict.operation, conflict.source = "write", self.url
        return conflict

    def remove(self) -> None:
        """Remove it, if it is there."""
        with _remote_errors("remove", self.url):
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.path)
            self.filesystem.invalidate_cache()

    def remove_empty_folder(self) -> None:
        """Remove a folder with nothing in it, where the store has such things."""
        with suppress(OSError, NotImplementedError), _remote_errors("remove", self.url):
            self.filesystem.rmdir(self.path)

    def copy_from(self, other: RemoteStore) -> None:
        """Have the store copy another file of its own to this place."""
        with _remote_errors("copy", self.url):
            self.filesystem.cp_file(other.path, self.path)
            self.filesystem.invalidate_cache()

    def names(self) -> list[str]:
        """The names of the files below it, sorted."""
        with _remote_errors("list", self.url):
            self.filesystem.invalidate_cache()
            try:
                found = self.filesystem.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
            return sorted(os.path.basename(name.rstrip("/")) for name in found)


def _status(error: BaseException | None) -> int | None:
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            return None if status is None else int(status)
        if isinstance(error, FileNotFoundError):
            return 404
        error = error.__cause__
    return None


def _md5(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(
            file,
            lambda: hashlib.md5(usedforsecurity=False),
        ).hexdigest()


class LocalCopy:
    """The bytes of a remote file as they were when it was first looked at.

    Its front and its end are read from the store; for more than these, all of it is copied to a
    temporary file once. So a reader sees one version, whatever happens to the file meanwhile.

    Parameters
    ----------
    store : RemoteStore
        The file.

    Attributes
    ----------
    size : int
        Its bytes.
    version : str
        What is read.
    """

    def __init__(self, store: RemoteStore) -> None:
        self._store = store
        info = store.info()
        self.size = int(info["size"])
        self.version = store._version_in(info)
        self._lock = threading.Lock()
        self._pieces: list[tuple[int, bytes]] = []
        self._descriptor: int | None = None

    def read_at(self, buffer: Any, position: int) -> int:
        """Read into a buffer from a position; returns how many bytes."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - position))
        if not count:
            return 0
        with self._lock:
            data = self._piece(position, count)
            if data is None:
                return os.preadv(self._local(), [view[:count]], position)
        view[:count] = data
        return count

    def _piece(self, position: int, count: int) -> bytes | None:
        """Bytes of the front or the end; None for what has to be copied."""
        if self._descriptor is not None:
            return None
        if not self._pieces:
            front = self._store.read(0, min(_EDGE, self.size))
            start = max(len(front), self.size - _EDGE // 4)
            end = self._store.read(start, self.size) if start < self.size else b""
            self._check()
            self._pieces = [(0, front), (start, end)]
        for start, data in self._pieces:
            if start <= position and position + count <= start + len(data):
                return data[position - start : position - start + count]
        return None

    def _local(self) -> int:
        if self._descriptor is None:
            descriptor, path = tempfile.mkstemp(prefix="godb-arrow-")
            closing = weakref.finalize(self, os.close, descriptor)
            try:
                self._store.fetch(path)
                self._check()
                came = os.fstat(descriptor).st_size
                if came != self.size:
                    raise StorageError(f"{came} bytes came of {self.size}")
            except BaseException:
                closing()
                raise
            finally:
                os.unlink(path)
            self._descriptor = descriptor
            self._pieces = []
        return self._descriptor

    def _check(self) -> None:
        if self._store.version() != self.version:
            raise self._store._conflict()


_EDGE = 256 << 10
