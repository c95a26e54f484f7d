"""The journal: what was appended is read again, torn tails are cut, damage is refused."""

from __future__ import annotations

import os
import random
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.disks import using
from support.journals import SECTOR, segment_1

from godb_arrow import CorruptFile, EngineClosed, StorageError, UnsupportedVersion
from godb_arrow.directory.change_log import ChangeLog
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import JournalCopy, bytes_behind, last_record
from godb_arrow.directory.journal_reader import read_journal
from godb_arrow.directory.kept_segments import KeptSegments
from godb_arrow.directory.repair import find_damage
from godb_arrow.file.hints import JournalPosition
from godb_arrow.storage import local
from godb_arrow.storage.local import Disk

metas = st.dictionaries(
    st.text(max_size=3).filter(lambda key: key != "parts"),
    st.one_of(st.integers(-5, 5), st.text(max_size=5), st.lists(st.text(max_size=2))),
    max_size=3,
)
records = st.lists(st.tuples(metas, st.lists(st.binary(max_size=100), max_size=3)), max_size=8)


def fresh(folder: Path) -> Journal:
    journal = Journal(str(folder))
    assert list(journal.recover()) == []
    return journal


def contents(folder: Path) -> list[tuple[dict[str, Any], list[bytes]]]:
    return [(record.meta, record.parts) for record in read_journal(str(folder))]


def segment(folder: Path) -> Path:
    return max(folder.iterdir(), key=lambda path: path.stat().st_size)


@given(records)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_read_as_they_were_appended(
    tmp_path_factory: pytest.TempPathFactory, appended: list[Any]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = fresh(folder)
    numbers = [journal.append("key", meta, parts) for meta, parts in appended]
    journal.close()
    assert numbers == list(range(1, len(appended) + 1))
    assert contents(folder) == appended
    again = Journal(str(folder))
    assert [record.number for record in again.recover()] == numbers
    assert again.append("key", {}) == len(appended) + 1
    again.close()
    assert len(contents(folder)) == len(appended) + 1


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_tail_that_is_cut_off_anywhere_leaves_the_records_before_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    journal = fresh(folder)
    ends = [journal.size]
    for number in range(5):
        journal.append("key", {"n": number}, [b"x" * (37 * number)])
        ends.append(journal.size)
    journal.close()
    path = segment(folder)
    cut = data.draw(st.integers(0, ends[-1]))
    os.truncate(path, cut)
    whole = sum(end <= cut for end in ends[1:])
    assert [meta["n"] for meta, _ in contents(folder)] == list(range(whole))
    again = Journal(str(folder))
    rest = path.read_bytes()[max([0, *(end for end in ends if end <= cut)]) :]
    assert len(list(again.recover())) == whole
    assert again.torn == (len(rest.rstrip(b"\0")) if cut >= ends[0] else cut)
    assert again.append("key", {"n": "more"}) == whole + 1
    again.close()
    assert [meta["n"] for meta, _ in contents(folder)][whole:] == ["more"]


HEADER = 64  # bytes


def filled(
    folder: Path, payload: bytes = b"x" * 50, *, reserved: bool = False
) -> tuple[Path, list[int]]:
    """A segment of three records, and where each ends; with reserved space as a crash leaves it."""
    journal = fresh(folder)
    ends = [journal.size]
    for number in range(3):
        last = journal.append("key", {"n": number}, [payload])
        ends.append(journal.size)
        if reserved and number != 1:  # The last record may need more space.
            journal.commit(last)
    path = segment(folder)
    content = path.read_bytes()
    assert any(content[ends[-1] :]) is False
    assert (len(content) > ends[-1]) is reserved
    journal.close()
    assert path.stat().st_size == ends[-1]
    path.write_bytes(content)
    return path, ends


maybe_reserved = pytest.mark.parametrize("reserved", [False, True])


@maybe_reserved
def test_any_flipped_bit_of_any_byte_is_refused(reserved: bool, tmp_path: Path) -> None:
    path, ends = filled(tmp_path, reserved=reserved)
    good = path.read_bytes()
    assert ends[0] == HEADER
    for at in range(ends[-1]):
        bit = 1 << at % 8
        path.write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        with pytest.raises(CorruptFile, match="restore the data directory") as raised:
            contents(tmp_path)
        assert raised.value.where == "file"
        assert raised.value.offset == max([0, *(end for end in ends if end <= at)])
        assert "godb-arrow repair" in str(raised.value)


def test_any_flipped_bit_of_a_journal_of_version_1_is_refused(tmp_path: Path) -> None:
    good, _ = segment_1([{"n": n, "text": "x" * 30} for n in range(3)])
    path = tmp_path / "00000001.journal"
    path.write_bytes(good)
    assert [meta["n"] for meta, _ in contents(tmp_path)] == [0, 1, 2]
    for at in range(len(good)):
        for bit in range(8):
            path.write_bytes(good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :])
            with pytest.raises(CorruptFile):
                contents(tmp_path)


def test_a_journal_of_version_1_that_ends_inside_its_last_record_is_torn(tmp_path: Path) -> None:
    good, ends = segment_1([{"n": n} for n in range(3)])
    path = tmp_path / "00000001.journal"
    for cut in range(ends[1], ends[2]):
        path.write_bytes(good[:cut])
        assert len(contents(tmp_path)) == 2
    path.write_bytes(good[: ends[1]] + bytes(ends[2] - ends[1]))
    assert len(contents(tmp_path)) == 2, "its only sector was never written"


def test_a_journal_of_version_1_goes_on(tmp_path: Path) -> None:
    good, ends = segment_1([{"n": n} for n in range(3)])
    (tmp_path / "00000001.journal").write_bytes(good[: ends[2] - 1])
    journal = Journal(str(tmp_path))
    assert [record.number for record in journal.recover()] == [1, 2]
    assert journal.append("key", {"n": "more"}) == 3
    journal.close()
    found = list(read_journal(str(tmp_path)))
    assert [record.number for record in found] == [1, 2, 3]
    assert [bool(record.run) for record in found] == [False, False, True]


@maybe_reserved
@pytest.mark.parametrize("size", [300, 5000, 3 << 20])
def test_a_sector_that_was_never_written_is_torn(size: int, reserved: bool, tmp_path: Path) -> None:
    noise = random.Random(size).randbytes(size)
    path, ends = filled(tmp_path, noise, reserved=reserved)
    good = path.read_bytes()
    first, last = ends[2] // SECTOR, (ends[3] - 1) // SECTOR
    for sector in {first, first + 1, (first + last) // 2, last} & {*range(first, last + 1)}:
        start, end = max(ends[2], sector * SECTOR), min(ends[3], (sector + 1) * SECTOR)
        path.write_bytes(good[:start] + bytes(end - start) + good[end:])
        assert len(contents(tmp_path)) == 2, sector
    path.write_bytes(good[: ends[2]] + bytes(len(good) - ends[2]))
    assert len(contents(tmp_path)) == 2
    # Less than a sector, or other bytes in it, is damage.
    for noise in (bytes(15), b"\xff" * SECTOR):
        at = ends[2] + 45
        path.write_bytes(good[:at] + noise[: len(good) - at] + good[at + len(noise) :])
        with pytest.raises(CorruptFile):
            contents(tmp_path)


@maybe_reserved
@pytest.mark.parametrize("size", [600, 4096, 2 << 20])
def test_documents_of_zeros_do_not_hide_damage(size: int, reserved: bool, tmp_path: Path) -> None:
    payload = bytes(size // 2) + b"\1" + bytes(size // 2)
    path, ends = filled(tmp_path, payload, reserved=reserved)
    good = path.read_bytes()
    assert len(contents(tmp_path)) == 3
    for at in {ends[2] + size // 2 + step for step in range(30, 90, 7)} | {
        good.rindex(b"\1"), ends[2] + 40, ends[3] - 1,
    }:  # fmt: skip
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with pytest.raises(CorruptFile):
            contents(tmp_path)


def test_reserved_space_is_no_content(tmp_path: Path) -> None:
    source, target = tmp_path / "journal", tmp_path / "copy"
    source.mkdir()
    target.mkdir()
    path, ends = filled(source, reserved=True)
    copy = JournalCopy(str(source), str(target))
    assert copy.replace([])
    assert copy.copy() == 3
    assert segment(target).stat().st_size == ends[-1]
    assert (last_record(str(source)), bytes_behind(str(source), str(target))) == (3, 0)
    assert find_damage(str(source)) == ([], 3, 0)
    position = JournalPosition(copy.segments[0].run, 1)
    with closing(ChangeLog(str(source), str(tmp_path / "changes"), position)) as log:
        assert [record.number for record in log.read()] == [2, 3]
        assert log.offset == (1, ends[-1])
    again = Journal(str(source))
    assert [record.number for record in again.recover()] == [1, 2, 3]
    assert (again.torn, path.stat().st_size) == (0, ends[-1])
    assert again.append("key", {}) == 4
    again.close()


def test_segments_are_kept_without_reserved_space(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    kept = KeptSegments(str(tmp_path / "changes"), 1 << 20, None)
    journal = Journal(str(tmp_path / "journal"), kept=kept)
    assert list(journal.recover()) == []
    for _ in range(2):
        journal.commit(journal.append("a", {}))
    size = journal.size
    assert segment(tmp_path / "journal").stat().st_size > size
    journal.release("a", None)
    journal.trim()
    assert segment(tmp_path / "changes").stat().st_size == size
    journal.close()


@pytest.mark.parametrize("failing", ["allocate", "truncate"])
def test_commits_do_without_reserved_space(failing: str, tmp_path: Path) -> None:
    class Refusing(Disk):
        def allocate(self, descriptor: int, position: int, size: int) -> None:
            super().allocate(descriptor, position, size if failing == "truncate" else 100)
            if failing == "allocate":
                raise OSError(28, "no space left")

        def truncate(self, descriptor: int, size: int) -> None:
            if failing == "truncate":
                raise OSError(5, "no")
            super().truncate(descriptor, size)

    with using(Refusing()):
        journal = fresh(tmp_path)
        for number in range(3):
            journal.commit(journal.append("a", {"n": number}, [b"x" * 200]))
        journal.close()
    assert [meta["n"] for meta, _ in contents(tmp_path)] == [0, 1, 2]


def test_a_record_that_another_process_is_writing_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, ends = filled(tmp_path, reserved=True)
    good = path.read_bytes()
    damaged = good[: ends[2] + 50] + bytes(len(good) - ends[2] - 50)
    path.write_bytes(damaged)
    with pytest.raises(CorruptFile):
        contents(tmp_path)
    waits = []

    def write(seconds: float) -> None:
        waits.append(seconds)
        if seconds:
            path.write_bytes(good)

    monkeypatch.setattr(time, "sleep", write)
    assert len(contents(tmp_path)) == 2
    assert len(contents(tmp_path)) == 3
    assert len(waits) == 2


def test_zeros_where_the_disk_had_a_record_are_refused(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    ends = []
    for number in range(3):
        journal.append("key", {"n": number}, [b"x" * 1000])
        journal.sync()
        ends.append(journal.size)
    journal.close()
    path = segment(tmp_path)
    good = path.read_bytes()
    path.write_bytes(good[: ends[0]] + bytes(ends[1] - ends[0]) + good[ends[1] :])
    with pytest.raises(CorruptFile, match="synced before record 3"):
        contents(tmp_path)
    path.write_bytes(good[: ends[0]] + bytes(len(good) - ends[0]))
    assert len(contents(tmp_path)) == 1, "nothing that is left says that it was there"


def test_a_segment_without_a_header_yet_is_no_damage(tmp_path: Path) -> None:
    path, _ = filled(tmp_path)
    header = path.read_bytes()[:HEADER]
    new = tmp_path / "00000002.journal"
    for begun in (*(header[:size] for size in range(HEADER)), bytes(HEADER), bytes(3000)):
        new.write_bytes(begun)
        assert len(contents(tmp_path)) == 3
    for damaged in (bytes(HEADER) + b"x", b"x" + bytes(HEADER - 1), b"x"):
        new.write_bytes(damaged)
        with pytest.raises(CorruptFile, match="does not begin as a segment"):
            contents(tmp_path)


def test_a_missing_or_damaged_segment_is_refused(tmp_path: Path) -> None:
    for _ in range(3):
        journal = Journal(str(tmp_path))
        list(journal.recover())
        journal.append("key", {})
        journal.close()
    first, second, third = sorted(tmp_path.iterdir())
    kept = second.read_bytes()
    second.unlink()
    with pytest.raises(CorruptFile, match="begins with record 3"):
        list(read_journal(str(tmp_path)))
    second.write_bytes(kept[:-1])
    with pytest.raises(CorruptFile, match="is damaged, and others follow"):
        list(read_journal(str(tmp_path)))
    second.write_bytes(kept[:8] + b"\x09" + kept[9:])
    with pytest.raises(CorruptFile, match="does not begin as a segment"):
        list(read_journal(str(tmp_path)))
    second.write_bytes(kept)
    assert len(contents(tmp_path)) == 3
    assert first.exists()
    assert third.exists()


def test_a_later_version_is_refused(tmp_path: Path) -> None:
    import xxhash

    journal = fresh(tmp_path)
    journal.close()
    path = segment(tmp_path)
    head = path.read_bytes()[:8] + b"\x03" + path.read_bytes()[9:24]
    path.write_bytes(head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little"))
    with pytest.raises(UnsupportedVersion, match="version 3"):
        list(read_journal(str(tmp_path)))


def test_segments_go_when_nobody_needs_them(tmp_path: Path) -> None:
    journal = fresh(tmp_path)
    journal.append("a", {})
    journal.append("b", {})
    journal.release("a", None)
    journal.trim()
    assert len(contents(tmp_path)) == 2, "b needs its record"
    journal.append("a", {})
    journal.release("b", None)
    journal.trim()
    assert len(contents(tmp_path)) == 3
    journal.release("a", None)
    journal.trim()
    assert contents(tmp_path) == []
    assert journal.append("a", {}) == 4
    journal.close()
    assert [record.number for record in read_journal(str(tmp_path))] == [4]


def test_threads_that_wait_share_a_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = fresh(tmp_path)
    entered, go = threading.Event(), threading.Event()
    fsync = local.disk.fsync

    def slow(descriptor: int) -> None:
        entered.set()
        go.wait(10)
        fsync(descriptor)

    monkeypatch.setattr(local.disk, "fsync", slow)

    def write() -> None:
        journal.sync(journal.append("key", {}))

    threads = [threading.Thread(target=write)]
    threads[0].start()
    assert entered.wait(10)
    more = [threading.Thread(target=write) for _ in range(8)]
    for thread in more:
        thread.start()
    while journal.last < 9:
        pass
    go.set()
    for thread in threads + more:
        thread.join(10)
    assert journal.syncs == 2
    journal.close()


def test_after_a_failed_sync_nothing_is_taken_until_a_new_journal_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = fresh(tmp_path)
    journal.append("key", {})

    def fail(_: int) -> None:
        raise OSError(5, "the disk is broken")

    with monkeypatch.context() as patch:
        patch.setattr(local.disk, "fsync", fail)
        with pytest.raises(StorageError, match="broken"):
            journal.sync()
    with pytest.raises(StorageError, match="call save"):
        journal.append("key", {})
    journal.release("key", None)
    journal.trim()
    journal.append("key", {})
    journal.close()


def test_a_sync_while_the_journal_is_closed_waits_for_that(tmp_path: Path) -> None:
    """The change is durable once the journal is closed: the verb must not raise EngineClosed."""
    journal = Journal(str(tmp_path))
    list(journal.recover())
    number = journal.append("c", {"op": "write"})
    errors: list[BaseException] = []

    def sync() -> None:
        try:
            journal.sync(number)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=sync)

    class Syncing(local.Disk):
        def close(self, descriptor: int) -> None:
            super().close(descriptor)
            thread.start()
            thread.join(0.2)  # it has the time to go wrong

    with using(Syncing()):
        journal.close(stored=True)
    thread.join()
    assert not errors


def test_a_closed_journal_appends_and_syncs_nothing(tmp_path: Path) -> None:
    """The engine refuses before; this is what holds if it does not."""
    journal = fresh(tmp_path)
    number = journal.append("c", {"op": "write"})
    journal.close()
    there = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(EngineClosed, match="open another one"):
        journal.append("c", {"op": "write"})
    journal.sync(number)  # it is durable already
    assert there == {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    again = Journal(str(tmp_path))
    assert len(list(again.recover())) == 1
    again.close()


@pytest.mark.parametrize("sizes", [[3 << 20], [0, 1 << 20, 5, 1 << 20], [2 << 20, 0]])
def test_a_large_record_is_read_part_by_part(tmp_path: Path, sizes: list[int]) -> None:
    parts = [os.urandom(size) for size in sizes]
    journal = Journal(str(tmp_path))
    assert list(journal.recover()) == []
    journal.append("users", {"op": "write", "c": "users", "k": [0] * len(parts)}, parts)
    journal.append("users", {"op": "drop", "c": "users"})
    journal.close()
    first, second = read_journal(str(tmp_path))
    assert first.parts == parts
    assert second.meta["op"] == "drop"
    path = next(tmp_path.glob("*.journal"))
    whole = path.read_bytes()
    for at in (200, len(whole) // 2, 100):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(CorruptFile):
            list(read_journal(str(tmp_path)))
    path.write_bytes(whole[: len(whole) // 2])
    assert list(read_journal(str(tmp_path))) == []  # torn
