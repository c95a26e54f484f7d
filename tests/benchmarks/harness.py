"""Harness that runs peers side by side, each run in its own process, and prints medians and ratios.

The peak memory of an operation is the peak of its process, without the memory after the imports.
Runs of the peers alternate, so that other load of the machine affects all peers.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MEBIBYTE = 1 << 20

RESULTS: list[dict[str, Any]] = []
"""Medians of all comparisons so far, as ``tools/charts.py`` reads them."""


@dataclass
class Peer:
    """Program or library that does the same work.

    `function` is called with `arguments` in a new process, after `imports` and `setup`.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...] = ()
    imports: Sequence[str] = ()
    setup: Callable[..., Any] | None = None
    seconds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


def _child(peer: Peer, connection: Connection) -> None:
    import importlib

    for name in peer.imports:
        module = importlib.import_module(name)
        for public in getattr(module, "__all__", ()):  # names that are loaded at their first use
            getattr(module, public, None)
    arguments = peer.arguments
    if peer.setup is not None:
        arguments = (peer.setup(*arguments),)
    before = resident()
    reset_peak()
    started = time.perf_counter()
    peer.function(*arguments)
    seconds = time.perf_counter() - started
    connection.send((seconds, peak() - before))
    connection.close()


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return 0


def resident() -> int:
    """Return the memory of this process in bytes."""
    return _status("VmRSS:")


def reset_peak() -> None:
    """Let the peak of this process begin now."""
    with suppress(OSError):  # then the peak is that since the start
        Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the peak memory of this process in bytes."""
    return _status("VmHWM:") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def compare(title: str, peers: Sequence[Peer], *, rows: int, repeat: int) -> None:
    """Run the peers in turn, and print a table with the first peer as the measure."""
    context = multiprocessing.get_context("spawn")
    for _ in range(repeat):
        for peer in peers:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=_child, args=(peer, sender))
            process.start()
            sender.close()
            try:
                seconds, grown = receiver.recv()
            except EOFError:
                raise SystemExit(f"{title}: {peer.name} failed") from None
            process.join()
            peer.seconds.append(seconds)
            peer.peaks.append(grown / MEBIBYTE)
    print(f"\n{title} (median of {repeat})\n")
    print("| | seconds | times ours | documents/s | peak MiB |")
    print("|---|---:|---:|---:|---:|")
    ours = statistics.median(peers[0].seconds)
    add_result(
        title,
        rows,
        {peer.name: statistics.median(peer.seconds) for peer in peers},
        {peer.name: statistics.median(peer.peaks) for peer in peers},
    )
    for peer in peers:
        median = statistics.median(peer.seconds)
        print(
            f"| {peer.name} | {median:.3f} | {median / ours:.2f} | {rows / median:,.0f} "
            f"| {statistics.median(peer.peaks):.0f} |",
            flush=True,
        )


def add_result(
    title: str, rows: int, seconds: dict[str, float], peaks: dict[str, float] | None = None
) -> None:
    """Add the medians of a comparison, by peer, to the results."""
    ours = next(iter(seconds.values()))
    runs = [
        {
            "peer": name,
            "seconds": float(f"{median:.4g}"),
            "of": float(f"{median / ours:.3g}"),
            **({} if peaks is None else {"peak_mebibytes": round(peaks[name])}),
        }
        for name, median in seconds.items()
    ]
    RESULTS.append({"row": title, "documents": rows, "runs": runs})


def write_results(path: Path | None) -> None:
    """Write the results as JSON, if there is a path."""
    if path is not None:
        path.write_text(json.dumps(RESULTS, indent=1, ensure_ascii=False) + "\n")
