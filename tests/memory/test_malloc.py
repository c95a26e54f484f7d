"""Options of the C library's malloc for commands."""

from __future__ import annotations

import pytest

from godb_arrow.memory import limit


@pytest.mark.parametrize(("cores", "heaps"), [(1, 1), (2, 1), (3, 1), (16, 8)])
def test_threads_of_a_command_share_heaps(
    monkeypatch: pytest.MonkeyPatch, cores: int, heaps: int
) -> None:
    options: dict[int, int] = {}
    monkeypatch.setattr(limit, "available_cores", lambda: cores)
    monkeypatch.setattr(limit, "_set_malloc", options.update)
    limit.keep_freed_memory()
    assert options[limit._ARENA_MAX] == heaps
