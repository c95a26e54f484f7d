"""Last bytes of a file."""

from __future__ import annotations

import io
from pathlib import Path

from godb_arrow.storage.source import Source


def test_a_huge_count_reserves_no_more_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    for source in (Source(path), Source(path).held(), Source(io.BytesIO(b"0123456789"))):
        assert source.tail(1 << 60) == b"0123456789"
        assert source.tail(3) == b"789"
        assert source.tail(0) == b""
        source.close()
