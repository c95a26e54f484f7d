"""Streams and uploads whose clients neither read nor send for a while."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable

import pyarrow.flight as fl

__all__ = ["Idle", "IdleWatch"]

logger = logging.getLogger(__name__)
_CHECKS_PER_TIMEOUT = 4
_MAX_CHECK_SECONDS = 10.0


class Idle:
    """State of one stream: since when it waits for its client, and whether it has timed out.

    Parameters
    ----------
    *release : callable
        Functions that release the slot of the stream, and what it has in memory and on disk.
    end : callable, optional
        Function that ends the call if others need its thread, and returns whether it did. It is
        called when the client still does nothing after the same time again.
    """

    def __init__(self, *release: Callable[[], None], end: Callable[[], bool] | None = None) -> None:
        self._release = release
        self._end = end
        self._lock = threading.Lock()
        self._waits_since: float | None = None
        self._has_expired = False

    def wait(self) -> None:
        """Note that the stream waits for its client from now on."""
        self._waits_since = time.monotonic()

    def go_on(self) -> None:
        """Note that the client did something.

        Raises
        ------
        FlightTimedOutError
            The stream has timed out before.
        """
        with self._lock:
            self._waits_since = None
            if self._has_expired:
                raise fl.FlightTimedOutError("the stream was idle for too long; open it again")

    def expire(self, seconds: float) -> None:
        """End the stream if it waits for so many seconds."""
        with self._lock:
            since = self._waits_since
            waited = 0.0 if since is None else time.monotonic() - since
            if since is None or waited < seconds:
                return
            functions = self._release if not self._has_expired else ()
            self._has_expired = True
            if waited >= 2 * seconds and self._end is not None and self._end():
                self._end = None
        for release in functions:
            try:
                release()
            except Exception:  # such as a full disk; the other streams are still watched
                logger.exception("an idle stream could not be released")


class IdleWatch:
    """Thread that ends idle streams. It runs while there are streams.

    Parameters
    ----------
    seconds : float
        Time that a stream waits for its client.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._streams: weakref.WeakSet[Idle] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()

    def add(self, stream: Idle) -> None:
        """Watch a stream until it is collected."""
        with self._lock:
            self._streams.add(stream)
            if self._thread is None and not self._stopped.is_set():
                self._thread = threading.Thread(
                    target=self._run, name="godb-arrow-idle", daemon=True
                )
                self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        with self._lock:
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        pause = min(self._seconds / _CHECKS_PER_TIMEOUT, _MAX_CHECK_SECONDS)
        while not self._stopped.wait(pause):
            with self._lock:
                streams = list(self._streams)
                if not streams:
                    self._thread = None
                    return
            for stream in streams:
                stream.expire(self._seconds)
            del streams
