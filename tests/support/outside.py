"""Things that lead out of a folder, and what is outside of it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from support.processes import run_python

LINKS = ["link", "dangling link"]
OTHERS = ["named pipe", *(["socket"] if Path("/proc/self/fd").is_dir() else [])]


def plant(kind: str, place: Path, target: Path) -> None:
    """Put something at a place that is no regular file: a link to a target, or another kind."""
    place.parent.mkdir(parents=True, exist_ok=True)
    makers: dict[str, Callable[[], object]] = {
        "link": lambda: os.symlink(target, place),
        "dangling link": lambda: os.symlink(target.parent / "missing", place),
        "named pipe": lambda: os.mkfifo(place),
        "socket": lambda: _bind(place),
        "folder": place.mkdir,
    }
    makers[kind]()


def _bind(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        folder = os.open(place.parent, os.O_RDONLY)
        try:  # a path of a socket has at most 107 bytes
            one.bind(f"/proc/self/fd/{folder}/{place.name}")
        finally:
            os.close(folder)


def tree(folder: Path) -> dict[str, tuple[int, int, bytes | str]]:
    """Return mode, time and content of everything in a folder."""
    found: dict[str, tuple[int, int, bytes | str]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content: bytes | str = ""
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        name = str(path.relative_to(folder))
        found[name] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns, content)
    return found


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def readable_by_others(folder: Path) -> list[str]:
    """Return the files of a folder that another user can read, lock and identity aside."""
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and mode(path) & 0o077 and path.suffix not in (".lock", ".id")
    ]


def run_with_umask(umask: int, function: Callable[..., None], *paths: Path) -> None:
    """Call a function of a test module in a process that has a umask."""
    code = (
        "import os, pathlib, runpy, sys\n"
        "os.umask(int(sys.argv[1])); sys.path.insert(0, sys.argv[2])\n"
        "runpy.run_path(sys.argv[3])[sys.argv[4]](*map(pathlib.Path, sys.argv[5:]))"
    )
    file = function.__code__.co_filename
    arguments = [str(umask), str(Path(__file__).parents[1]), file, function.__name__]
    done = run_python(code, *arguments, *paths)
    assert done.returncode == 0, done.stderr
