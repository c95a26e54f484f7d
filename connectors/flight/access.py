"""Tokens of clients, and the number of calls that run at the same time."""

from __future__ import annotations

import hmac
import threading
from collections import Counter
from collections.abc import Callable, Mapping

import pyarrow.flight as fl

from godb_arrow.errors import InvalidOption

__all__ = ["Slots", "checked_tokens", "may_write"]

_MIN_TOKEN_CHARACTERS = 16


def checked_tokens(token: str | None, read_only_token: str | None) -> dict[bytes, bool]:
    """Return whether a client may write, by the header that it sends.

    Raises
    ------
    InvalidOption
        A token is short, has a character that a header cannot have, or both are the same.
    """
    if token is None and read_only_token is not None:
        raise InvalidOption("read_only_token is given without token", advice="give token=, too")
    if token is not None and token == read_only_token:
        raise InvalidOption("both tokens are the same", advice="give two different ones")
    tokens: dict[bytes, bool] = {}
    for value, writes in ((token, True), (read_only_token, False)):
        if value is None:
            continue
        if len(value) < _MIN_TOKEN_CHARACTERS:
            raise InvalidOption(
                f"the token has {len(value)} characters",
                advice=f"give at least {_MIN_TOKEN_CHARACTERS}, such as secrets.token_urlsafe()",
            )
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise InvalidOption(
                "the token has a character that a header cannot have, such as a line end",
                advice="use secrets.token_urlsafe()",
            )
        tokens[f"Bearer {value}".encode()] = writes
    return tokens


def may_write(given: bytes, tokens: Mapping[bytes, bool]) -> bool:
    """Return whether a client may write, by the header that it sends.

    Parameters
    ----------
    given : bytes
        Header of the client, which is empty without one.
    tokens : mapping of bytes to bool
        Result of :func:`checked_tokens`. Without tokens, all clients may write.

    Raises
    ------
    FlightUnauthenticatedError
        The token is missing or wrong.
    """
    if not tokens:
        return True
    # All tokens are compared, so that the time does not tell them apart.
    matches = [token for token in tokens if hmac.compare_digest(given, token)]
    if not matches:
        raise fl.FlightUnauthenticatedError("the token is missing or wrong")
    return tokens[matches[0]]


class Slots:
    """Limit of the calls that run at the same time, in total and by client.

    Parameters
    ----------
    most : int
        Maximum number of calls.
    most_per_client : int or None
        Maximum number of calls from one address.
    """

    def __init__(self, most: int, most_per_client: int | None) -> None:
        self._most, self._most_per_client = most, most_per_client
        self._running: Counter[str] = Counter()
        self._lock = threading.RLock()  # the garbage collector may release in any place

    def take(self, peer: str) -> Callable[[], None]:
        """Count a call, and return the function that ends it.

        Raises
        ------
        FlightUnavailableError
            Too many calls run.
        """
        client = peer.rpartition(":")[0]
        with self._lock:
            own = self._running[client]
            if self._most_per_client is not None and own >= self._most_per_client:
                raise fl.FlightUnavailableError("too many streams of this client; end one first")
            if self._running.total() >= self._most:
                raise fl.FlightUnavailableError("too many streams run; try again later")
            self._running[client] += 1
        left = [client]
        return lambda: self._release(left)

    def _release(self, left: list[str]) -> None:
        with self._lock:
            if left:
                self._running[left.pop()] -= 1
                self._running += Counter()  # drops clients without calls
