"""Sources of bytes: local files, URLs, bytes in memory and open files."""

from __future__ import annotations

import io
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any, BinaryIO, cast

from godb_arrow.errors import InvalidOption, storage_errors
from godb_arrow.storage.inside import open_to_read
from godb_arrow.storage.local import checked_path
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import LocalCopy, RemoteStore, is_url

__all__ = [
    "HeldFile",
    "Location",
    "Source",
    "local_path",
    "local_version",
    "open_source",
    "resolve",
    "spool",
]


Location = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
"""Path, URL that fsspec knows, bytes, or open binary file."""

_SPOOL_BYTES_IN_MEMORY = 16 << 20
_IDENTITY_BYTES = 64  # at the end of a file, where godb_arrow writes checksums
_BUFFER_BYTES = 128 << 10


class Source:
    """Source of bytes that can be read from its beginning several times.

    Parameters
    ----------
    location : path, URL, bytes or open binary file
        Location of the bytes. A file that cannot seek is copied to a temporary one.

    Attributes
    ----------
    name : str
        Name in messages.

    Examples
    --------
    >>> source = Source(b"GODB")
    >>> with source.open() as stream:
    ...     stream.read()
    b'GODB'
    """

    def __init__(self, location: Location) -> None:
        self._bytes: bytes | memoryview | None = None
        self._file: BinaryIO | None = None
        self._start = 0
        self._store: RemoteStore | None = None
        self._path = ""
        if isinstance(location, (bytes, bytearray, memoryview)):
            self.name = "<bytes>"
            self._bytes = location if isinstance(location, bytes) else memoryview(location)
        elif hasattr(location, "read"):
            self._take_file(cast(BinaryIO, location))
        elif isinstance(location, (str, os.PathLike)):
            self.name = os.fspath(location)
            self._store, self._path = resolve(self.name)
        else:
            raise InvalidOption(
                f"cannot read from {type(location).__name__}",
                advice="give a path, a URL, bytes, or a file that is open in binary mode",
            )

    def _take_file(self, file: BinaryIO) -> None:
        self.name = str(getattr(file, "name", "<file>"))
        if isinstance(file, io.TextIOBase):
            raise InvalidOption(
                f"{self.name} is open as text", advice="open it in binary mode, with open(…, 'rb')"
            )
        if file.seekable() if hasattr(file, "seekable") else hasattr(file, "seek"):
            self._file = file
            self._lock = _lock_of(file)
            with self._lock:
                self._start = file.tell()
        else:
            copy = cast(BinaryIO, spool())
            with storage_errors("read", self.name):
                for piece in iter(lambda: file.read(1 << 20), b""):
                    copy.write(piece)
            self._file, self._lock = copy, threading.Lock()
            weakref.finalize(self, copy.close)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the source at its beginning."""
        if self._bytes is not None:
            yield io.BytesIO(self._bytes)
        elif self._file is not None:
            yield _buffered(_PositionedReader(self, self._start))
        elif self._store is not None:
            with self._store.open() as stream:
                yield stream
        else:
            with storage_errors("open", self.name):
                file = open(self._path, "rb")  # noqa: SIM115
            with file, storage_errors("read", self.name):
                yield file

    def held(self) -> Source:
        """Return a source that reads the same file even after it was replaced.

        Returns
        -------
        Source
            A :class:`HeldFile` for a local path; this source for any other.
        """
        is_local = self._path and self._store is None
        return HeldFile(self.name, self._path) if is_local and os.path.isfile(self._path) else self

    def close(self) -> None:
        """Close the file of a source that :meth:`held` returned; no other source has one."""

    def size(self) -> int | None:
        """Return the size in bytes, or None if it is unknown."""
        if self._bytes is not None:
            return memoryview(self._bytes).nbytes
        if self._file is not None:
            return self.end() - self._start
        if self._store is not None:
            return self._store.size()
        with storage_errors("inspect", self.name):
            return os.stat(self._path).st_size

    def modified(self) -> float | None:
        """Return the time of the last change in seconds since 1970, or None if it is unknown."""
        if not self._path:
            return None
        if self._store is not None:
            return self._store.modified()
        with suppress(OSError):
            return os.stat(self._path).st_mtime
        return None

    def version(self) -> str | None:
        """Return a value that changes whenever the content does; None for bytes in memory."""
        if self._store is not None:
            return self._store.version()
        with storage_errors("inspect", self.name):
            return local_version(self._path) if self._path else None

    def read_at(self, buffer: Any, position: int) -> int:
        """Read from a position of an open file, and return the number of bytes.

        The position of the file stays, so that several readers may share the file.
        """
        assert self._file is not None
        with self._lock:
            before = self._file.tell()
            try:
                self._file.seek(position)
                data = self._file.read(len(buffer))
            finally:
                self._file.seek(before)
        buffer[: len(data)] = data
        return len(data)

    def end(self) -> int:
        """Return the position after the last byte of an open file."""
        assert self._file is not None
        with self._lock:
            before = self._file.tell()
            try:
                self._file.seek(0, os.SEEK_END)  # which returns None for memory maps
                return self._file.tell()
            finally:
                self._file.seek(before)

    def tail(self, count: int) -> bytes:
        """Return at most `count` last bytes; no bytes if the source cannot seek."""
        with self.open() as stream:
            try:
                end = stream.seek(0, os.SEEK_END)
                start = max(self._start, end - count)
                stream.seek(start)
            except (OSError, ValueError):
                return b""
            return stream.read(max(0, end - start))  # A damaged file may have a huge count.


class HeldFile(Source):
    """Local file that several threads can read, and that stays readable when it is replaced.

    Parameters
    ----------
    name : str
        Name in messages. The file is open until :meth:`close`, or until this object is collected.
    path : str, optional
        Path of the file; `name` by default.
    descriptor : int, optional
        Descriptor of the file, if it is open already.
    folder : Access
        Permissions that the enclosing folders grant.
    """

    def __init__(
        self,
        name: str,
        path: str | None = None,
        descriptor: int | None = None,
        folder: Access = UNLIMITED,
    ) -> None:
        super().__init__(name)
        self._folder = folder
        if descriptor is None:
            with storage_errors("open", name):
                descriptor = os.open(path or name, os.O_RDONLY | os.O_CLOEXEC)
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()  # guards the next two attributes
        self._reading = 0  # number of reading threads
        self._closed = False

    def held(self) -> Source:
        """Return this object, which always reads the same file."""
        return self

    def close(self) -> None:
        """Close the file as soon as no thread reads it."""
        with self._lock:
            self._closed = True
            if not self._reading:
                self._close()

    @classmethod
    def hold(cls, path: str) -> HeldFile:
        """Return a local file that the user chose, or an object of a URL."""
        return _HeldRemoteFile(path) if is_url(path) else cls(path)

    @classmethod
    def inside(cls, path: str, folder: Access) -> HeldFile:
        """Return a regular file of a folder; see :mod:`godb_arrow.storage.inside`."""
        with storage_errors("open", path), open_to_read(path) as stream:
            return cls(path, descriptor=os.dup(stream.fileno()), folder=folder)

    def access(self) -> Access:
        """Return the permissions that the file and its enclosing folders grant."""
        return Access.of_file(os.fstat(self._descriptor)) & self._folder

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """Open the file at its beginning, with a position of its own."""
        with storage_errors("read", self.name):
            yield _buffered(_PositionedReader(self))

    def size(self) -> int:
        """Return the size of the file in bytes."""
        return os.fstat(self._descriptor).st_size

    def end(self) -> int:
        """Return the position after the last byte, which is the size."""
        return self.size()

    def version(self) -> str | None:
        """Return the version of the open file."""
        return local_version(self._descriptor)

    def identity(self) -> object:
        """Return a value that differs between files with different content."""
        status = os.fstat(self._descriptor)
        end = self.tail(_IDENTITY_BYTES)
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, end

    def modified(self) -> float | None:
        """Return the time of the last change of the open file, in seconds since 1970."""
        return os.fstat(self._descriptor).st_mtime

    def read_at(self, buffer: Any, position: int) -> int:
        """Read into a buffer from a position of the file, and return the number of bytes."""
        with self._lock:
            if self._closed:
                raise ValueError(f"{self.name} is closed")
            self._reading += 1
        try:
            return os.preadv(self._descriptor, [buffer], position)
        finally:
            with self._lock:
                self._reading -= 1
                if self._closed and not self._reading:
                    self._close()


class _HeldRemoteFile(HeldFile):
    """Remote file whose version is fixed when it is opened."""

    def __init__(self, path: str) -> None:
        Source.__init__(self, path)
        assert self._store is not None
        self._copy = LocalCopy(self._store)

    def access(self) -> Access:
        return UNLIMITED

    def modified(self) -> float | None:
        return Source.modified(self)

    def size(self) -> int:
        return self._copy.size

    def version(self) -> str:
        return self._copy.version

    def identity(self) -> object:
        return self._copy.version

    def read_at(self, buffer: Any, position: int) -> int:
        return self._copy.read_at(buffer, position)


class _PositionedReader(io.RawIOBase):
    """A stream of a source with a position of its own."""

    def __init__(self, source: Source, position: int = 0) -> None:
        self._source = source
        self._position = position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self._source.read_at(buffer, self._position)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = self._position if whence == os.SEEK_CUR else 0
        if whence == os.SEEK_END:
            start = self._source.end()
        self._position = max(0, start + offset)
        return self._position


def _buffered(reader: _PositionedReader) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(reader, _BUFFER_BYTES))


_locks: weakref.WeakKeyDictionary[Any, threading.Lock] = weakref.WeakKeyDictionary()
"""Locks of files that callers opened: all sources of a file share its position."""

_locks_lock = threading.Lock()


def _lock_of(file: Any) -> threading.Lock:
    with _locks_lock:
        try:
            return _locks.setdefault(file, threading.Lock())
        except TypeError:  # the file has no hash or no weak references
            return threading.Lock()


def open_source(location: Location | Source) -> Source:
    """Return a source for a location, or a source unchanged."""
    return location if isinstance(location, Source) else Source(location)


def local_version(file: str | int) -> str | None:
    """Return a value that changes whenever a local file does, or None if no file exists.

    Parameters
    ----------
    file : str or int
        A path, or the descriptor of an open file.
    """
    try:
        status = os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}"


def resolve(name: str) -> tuple[RemoteStore | None, str]:
    """Return the store and path of a URL, or None and the path of a local file."""
    if is_url(name):
        store = RemoteStore(name)
        return store, store.path
    return None, local_path(name)


def local_path(name: str) -> str:
    """Return the path of a local file or folder, which a ``file://`` URL may name, too."""
    return checked_path(os.path.expanduser(name.removeprefix("file://")))


def spool() -> IO[bytes]:
    """Open a temporary file, which stays in memory while it is small."""
    import tempfile

    return tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES_IN_MEMORY)
