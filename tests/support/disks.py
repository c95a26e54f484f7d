"""Disks for tests: one that fails at a chosen call, and one that remembers everything."""

from __future__ import annotations

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from godb_arrow.storage import local
from godb_arrow.storage.local import Disk, WriteCall

SECTOR = 512


@contextmanager
def using(disk: Disk) -> Iterator[None]:
    """Replace the local disk, through which all changes go."""
    before, local.disk = local.disk, disk
    try:
        yield
    finally:
        local.disk = before


class FaultyDisk(Disk):
    """Fails at one call: with an error, or with a write that stops half-way before it."""

    def __init__(self, fail_at: int = -1, code: int = errno.EIO, short: bool = False) -> None:
        self.calls: list[str] = []
        self.fail_at = fail_at
        self.code = code
        self.short = short
        self.failed: str | None = None

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if len(self.calls) - 1 == self.fail_at:
            self.failed = name
            raise OSError(self.code, os.strerror(self.code))

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        self._call("open")
        return super().open(path, flags, mode)

    def write(self, descriptor: int, data: bytes | memoryview, call: WriteCall = os.write) -> int:
        if self.short and len(self.calls) == self.fail_at:
            os.write(descriptor, memoryview(data)[: len(data) // 2])
        self._call("write")
        return super().write(descriptor, data, call)

    def fsync(self, descriptor: int) -> None:
        self._call("fsync")
        super().fsync(descriptor)

    def allocate(self, descriptor: int, position: int, size: int) -> None:
        self._call("allocate")
        super().allocate(descriptor, position, size)

    def truncate(self, descriptor: int, size: int) -> None:
        self._call("truncate")
        super().truncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._call("close")

    def replace(self, source: str, target: str) -> None:
        self._call("replace")
        super().replace(source, target)

    def unlink(self, path: str) -> None:
        self._call("unlink")
        super().unlink(path)

    def link(self, source: str, target: str) -> None:
        self._call("link")
        super().link(source, target)

    def remove_folder(self, path: str) -> None:
        self._call("remove_folder")
        super().remove_folder(path)

    def make_folder(self, path: str) -> None:
        self._call("make_folder")
        super().make_folder(path)

    def sync_folder(self, path: str) -> None:
        self._call("sync_folder")
        super().sync_folder(path)


class CountingDisk(Disk):
    """Counts calls and bytes, and waits for nothing."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        self.counts["open"] += 1
        return super().open(path, flags, mode)

    def write(self, descriptor: int, data: bytes | memoryview, call: WriteCall = os.write) -> int:
        count = super().write(descriptor, data, call)
        self.counts["bytes"] += count
        return count

    def fsync(self, descriptor: int) -> None:
        self.counts["fsync"] += 1

    def sync_folder(self, path: str) -> None:
        self.counts["sync_folder"] += 1

    def unlink(self, path: str) -> None:
        self.counts["unlink"] += 1
        super().unlink(path)


@dataclass
class File:
    """A file: what is on the disk for sure, and what was written since."""

    content: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # None: cut there

    def copy(self) -> File:
        return File(bytearray(self.content), list(self.pending))


def apply(content: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        del content[offset:]
        return
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data


class RecordingDisk(Disk):
    """Disk that records which files are durable, and which may be, if the power were cut."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.names: dict[str, File] = {}  # as the process sees them
        self.durable: dict[str, File] = {}  # synced to the disk
        self.pending: list[tuple[str, str, File | None]] = []  # folder, path, current file
        self.files: dict[int, File] = {}
        self.cuts: list[tuple[int, Any]] = []  # acknowledged operations, and a state
        self.acknowledged = 0

    def _remember(self) -> None:
        files: dict[int, File] = {}

        def copy(file: File | None) -> File | None:
            if file is None:
                return None
            return files.setdefault(id(file), file.copy())

        durable = {path: copy(file) for path, file in self.durable.items()}
        pending = [(folder, path, copy(file)) for folder, path, file in self.pending]
        self.cuts.append((self.acknowledged, (durable, pending)))

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        descriptor = super().open(path, flags, mode)
        if path not in self.names:
            self.names[path] = File()
            self.pending.append((os.path.dirname(path), path, self.names[path]))
        elif flags & os.O_TRUNC:
            self.names[path].pending.append((0, None))
        self.files[descriptor] = self.names[path]
        return descriptor

    def write(self, descriptor: int, data: bytes | memoryview, call: WriteCall = os.write) -> int:
        at = os.lseek(descriptor, 0, os.SEEK_CUR)
        count = super().write(descriptor, data, call)
        self.files[descriptor].pending.append((at, bytes(data[:count])))
        self._remember()
        return count

    def _file(self, descriptor: int) -> File:
        if descriptor not in self.files:  # a duplicate
            same = os.fstat(descriptor)
            descriptor = next(d for d in self.files if os.path.samestat(os.fstat(d), same))
        return self.files[descriptor]

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        file = self._file(descriptor)
        for offset, data in file.pending:
            apply(file.content, offset, data)
        file.pending.clear()
        self._remember()

    def allocate(self, descriptor: int, position: int, size: int) -> None:
        super().allocate(descriptor, position, size)
        self._file(descriptor).pending.append((position, bytes(size)))

    def truncate(self, descriptor: int, size: int) -> None:
        super().truncate(descriptor, size)
        self._file(descriptor).pending.append((size, None))

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self.files.pop(descriptor, None)

    def replace(self, source: str, target: str) -> None:
        super().replace(source, target)
        file = self.names.pop(source)
        self.names[target] = file
        self.pending.append((os.path.dirname(target), target, file))
        self.pending.append((os.path.dirname(source), source, None))
        self._remember()

    def unlink(self, path: str) -> None:
        super().unlink(path)
        del self.names[path]
        self.pending.append((os.path.dirname(path), path, None))
        self._remember()

    def link(self, source: str, target: str) -> None:
        super().link(source, target)
        self.names[target] = self.names[source]
        self.pending.append((os.path.dirname(target), target, self.names[target]))
        self._remember()

    def remove_folder(self, path: str) -> None:
        super().remove_folder(path)
        self.pending.append((os.path.dirname(path), path, None))
        self._remember()

    def sync_folder(self, path: str) -> None:
        super().sync_folder(path)
        left: list[tuple[str, str, File | None]] = []
        for folder, name, file in self.pending:
            if folder != path:
                left.append((folder, name, file))
            elif file is None:
                drop(self.durable, name)
                left = [one for one in left if one[0] != name]  # names in a removed folder
            else:
                self.durable[name] = file
        self.pending = left
        self._remember()


def drop(names: dict[str, File], path: str) -> None:
    """Drop the name of a file, or of an empty folder with all names that were in it."""
    for name in [name for name in names if name == path or name.startswith(path + os.sep)]:
        del names[name]


def after_power_cut(state: Any, how: str, random_: random.Random) -> dict[str, bytes]:
    """Return possible files of a disk: the fewest ("least"), all ("most"), or some ("any")."""
    durable, pending = state
    names = dict(durable)
    for _, path, file in pending:
        if how == "most" or (how == "any" and random_.random() < 0.5):
            if file is None:
                drop(names, path)
            else:
                names[path] = file
    contents: dict[int, bytes] = {}
    for file in names.values():
        if id(file) in contents:
            continue
        content = bytearray(file.content)
        for offset, data in file.pending:
            if how == "most" or data is None:
                apply(content, offset, data)
            elif how == "any":
                for start in range(0, len(data), SECTOR):
                    if random_.random() < 0.7:
                        apply(content, offset + start, data[start : start + SECTOR])
        contents[id(file)] = bytes(content)
    return {path: contents[id(file)] for path, file in names.items()}


def put(files: dict[str, bytes], root: str, target: Path) -> None:
    """Make a folder with the files."""
    for folder in ("collections", "journal"):
        (target / folder).mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        place = target / os.path.relpath(path, root)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
