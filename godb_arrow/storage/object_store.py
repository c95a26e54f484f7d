"""Files on object stores: conditional writes, and reads of one unchanging version."""

from __future__ import annotations

import datetime as dt
import io
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Literal

from godb_arrow.display import without_secrets
from godb_arrow.errors import (
    GodbError,
    SourceNotFound,
    StorageError,
    WriteConflict,
    storage_errors,
)
from godb_arrow.storage.url_options import file_system_of

__all__ = ["Absent", "Expected", "LocalCopy", "RemoteStore", "is_url", "without_query"]


Absent = Literal["absent"]
"""Condition that no file exists yet."""

Expected = str | Absent | None
"""Version to replace, ``"absent"`` if no file may exist, or None for no condition."""


_check_lock = threading.Lock()  # guards check and write on a store without conditional writes
_EDGE_BYTES = 256 << 10  # first bytes of a file that are cached; a quarter as many at its end


def is_url(name: str) -> bool:
    """Return whether a name is a URL that does not stand for a local file.

    Examples
    --------
    >>> is_url("s3://bucket/users.godb"), is_url("users.godb"), is_url("file:///users.godb")
    (True, False, False)
    """
    return "://" in name and not name.startswith("file://")


def without_query(name: str) -> str:
    """Return a name without the query of an HTTP URL.

    Examples
    --------
    >>> without_query("https://host/users.godb?token=1"), without_query("what?.godb")
    ('https://host/users.godb', 'what?.godb')
    """
    return name.partition("?")[0] if name.startswith(("http://", "https://")) else name


@contextmanager
def _remote_errors(operation: str, url: str) -> Iterator[None]:
    """Convert the errors of any library for object stores to `StorageError`."""
    try:
        with storage_errors(operation, url):
            yield
    except GodbError:
        raise
    except Exception as error:
        raised = StorageError(
            without_secrets(f"{type(error).__name__}: {error}", url),
            advice="check the connection and the credentials",
        )
        raised.operation, raised.source = operation, url
        raise raised from error


class RemoteStore:
    """Operations on one URL, and on the files below it, by fsspec.

    Parameters
    ----------
    url : str
        URL of a file or folder, such as ``"s3://bucket/folder"``.

    Raises
    ------
    InvalidOption
        fsspec does not know the protocol.
    MissingDependency
        The package for the protocol is not installed.

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
        self.url = url
        self.filesystem, self.path = file_system_of(url)

    def info(self) -> dict[str, Any]:
        """Return the store's current information about the file."""
        with _remote_errors("inspect", self.url):
            self.filesystem.invalidate_cache()
            info: dict[str, Any] = self.filesystem.info(self.path)
            return info

    def version(self) -> str | None:
        """Return a value that changes whenever the content does, or None if no file exists."""
        try:
            return self._version_in(self.info())
        except SourceNotFound:
            return None

    def _version_in(self, info: dict[str, Any]) -> str:
        for key in ("ETag", "etag", "generation"):
            if info.get(key) is not None:
                return str(info[key])
        version: str = self.filesystem.ukey(self.path)
        return version

    def size(self) -> int | None:
        """Return the size in bytes, or None if the store does not tell."""
        size = self.info().get("size")
        return None if size is None else int(size)

    def modified(self) -> float | None:
        """Return the time of the last change in seconds since 1970, or None if unknown."""
        info = self.info()
        for key in ("LastModified", "created", "updated", "mtime"):
            when = info.get(key)
            if isinstance(when, dt.datetime):
                return float(when.timestamp())
        return None

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file for streaming from its beginning."""
        with _remote_errors("open", self.url):
            stream: BinaryIO = (
                io.BytesIO(self.filesystem.cat_file(self.path))
                if self._is_memory
                else self.filesystem.open(self.path, "rb")
            )
        with _remote_errors("read", self.url), stream:
            yield stream

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes between two offsets."""
        with _remote_errors("read", self.url):
            data: bytes = self.filesystem.cat_file(self.path, start=start, end=end)
            return data

    def fetch(self, local: str) -> None:
        """Download the file to a local path."""
        with _remote_errors("read", self.url):
            if not self._is_memory:
                self.filesystem.get_file(self.path, local)
                return
            with open(local, "wb") as file:
                file.write(self.filesystem.cat_file(self.path))

    def put(self, local: str, *, expected: Expected = None) -> str:
        """Upload a local file atomically.

        Parameters
        ----------
        local : path
            The local file.
        expected : str, "absent" or None
            Version to replace, "absent" if no file may exist, or None for no condition.

        Returns
        -------
        str
            The new version.

        Raises
        ------
        WriteConflict
            Another writer replaced the file.
        StorageError
            The store refuses the upload.
        """
        with _remote_errors("write", self.url):
            if expected is None:
                self._put(local)
            elif self._has_conditions:
                self._put_on_condition(local, expected)
            else:
                # Only memory:// and the like, which one process uses, are without conditions.
                with _check_lock:
                    if (self.version() or "absent") != expected:
                        raise self._conflict()
                    self._put(local)
        version = self.version()
        if version is None:
            raise StorageError("the file is missing after it was written")
        return version

    def _put(self, local: str) -> None:
        if not self._is_memory:
            self.filesystem.put_file(local, self.path)
            return
        with open(local, "rb") as file:
            self.filesystem.pipe_file(self.path, file.read())

    @property
    def _is_memory(self) -> bool:
        """Whether files are objects in memory, which have one position for all readers.

        Such a file is empty when it is opened for writing, and written piece by piece. So it is
        read and written as a whole.
        """
        return bool(self.filesystem.protocol == "memory")

    @property
    def _has_conditions(self) -> bool:
        return hasattr(self.filesystem, "call_s3")

    def _put_on_condition(self, local: str, expected: str) -> None:
        """Write to S3 under a condition, with If-None-Match or If-Match."""
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
            if _code(error) == "NoSuchBucket" or (_status(error) == 404 and expected == "absent"):
                raise SourceNotFound(
                    f"the bucket {bucket!r} does not exist",
                    advice="create the bucket, or check the URL",
                ) from error
            # S3 may have stored our file although its response was lost.
            if self.version() == f'"{_md5(local)}"':
                return
            raise self._conflict() from error

    def _conflict(self) -> WriteConflict:
        conflict = WriteConflict(
            "another writer replaced the file since it was read",
            advice="read it again and repeat the change",
        )
        conflict.operation, conflict.source = "write", self.url
        return conflict

    def remove(self) -> None:
        """Remove the file, unless it is missing."""
        with _remote_errors("remove", self.url):
            with suppress(FileNotFoundError):
                self.filesystem.rm_file(self.path)
            self.filesystem.invalidate_cache()

    def remove_empty_folder(self) -> None:
        """Remove an empty folder, on stores that have folders."""
        with suppress(OSError, NotImplementedError), _remote_errors("remove", self.url):
            self.filesystem.rmdir(self.path)

    def copy_from(self, other: RemoteStore) -> None:
        """Copy another file of the same store to this URL, on the side of the store."""
        with _remote_errors("copy", self.url):
            self.filesystem.cp_file(other.path, self.path)
            self.filesystem.invalidate_cache()

    def names(self) -> list[str]:
        """Return the sorted names of the files below this URL."""
        with _remote_errors("list", self.url):
            self.filesystem.invalidate_cache()
            try:
                paths = self.filesystem.ls(self.path, detail=False)
            except FileNotFoundError:
                return []
            return sorted(os.path.basename(name.rstrip("/")) for name in paths)


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


def _code(error: BaseException | None) -> str | None:
    """Return the name that the store has for an error."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code"))
        error = error.__cause__
    return None


def _md5(path: str) -> str:
    import hashlib

    with open(path, "rb") as file:
        return hashlib.file_digest(
            file,
            lambda: hashlib.md5(usedforsecurity=False),
        ).hexdigest()


class LocalCopy:
    """Bytes of a remote file in the version that was current at the first access.

    The first and last bytes are read from the store. For any others, the whole file is copied once
    to a temporary file. So a reader sees one version, even if the file is replaced meanwhile.

    Parameters
    ----------
    store : RemoteStore
        The file.

    Attributes
    ----------
    size : int
        Size of the file in bytes.
    version : str
        Version of the file that is read.
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
        """Read into a buffer from a position, and return the number of bytes."""
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
        """Return bytes near the beginning or end; None if the whole file must be copied."""
        if self._descriptor is not None:
            return None
        if not self._pieces:
            front = self._store.read(0, min(_EDGE_BYTES, self.size))
            start = max(len(front), self.size - _EDGE_BYTES // 4)
            end = self._store.read(start, self.size) if start < self.size else b""
            self._check()
            self._pieces = [(0, front), (start, end)]
        for start, data in self._pieces:
            if start <= position and position + count <= start + len(data):
                return data[position - start : position - start + count]
        return None

    def _local(self) -> int:
        if self._descriptor is None:
            import tempfile

            descriptor, path = tempfile.mkstemp(prefix="godb-arrow-")
            closing = weakref.finalize(self, os.close, descriptor)
            try:
                self._store.fetch(path)
                self._check()
                came = os.fstat(descriptor).st_size
                if came != self.size:
                    raise StorageError(f"the download has {came} bytes instead of {self.size}")
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
