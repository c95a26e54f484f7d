"""Versions by number, moment and tag, of collections of any size."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, using
from support.engines import crash

import godb_arrow
from godb_arrow import InvalidOption, StorageEngine, StorageError, TargetExists, VersionNotFound


def opened(path: Path, **options: Any) -> StorageEngine:
    return StorageEngine(path, versions="all", part_grace="1ms", **options)


def names(collection: Any) -> list[str]:
    return sorted(document["name"] for document in collection)


def test_small_collections_keep_versions_if_asked(tmp_path: Path) -> None:
    with opened(tmp_path) as engine:
        users = engine.create_collection("users")
        moments = []
        for name in "abc":
            users.insert({"name": name})
            engine.save()
            moments.append(dt.datetime.now(dt.UTC))
        assert [info.documents for info in users.versions()] == [1, 2, 3]
        assert names(engine.snapshot("users", 2)) == ["a", "b"]
        assert names(engine.snapshot("users", at=moments[1])) == ["a", "b"]
        assert names(engine.snapshot("users", at=moments[0].isoformat())) == ["a"]
        naive = moments[0].replace(tzinfo=None)
        assert names(users.snapshot(at=naive)) == ["a"], "UTC by default"
        tomorrow = moments[2].date() + dt.timedelta(1)
        assert names(users.snapshot(at=tomorrow)) == ["a", "b", "c"]
        with pytest.raises(VersionNotFound, match=r"no version of 2001-01-01 .* or before"):
            users.snapshot(at="2001-01-01")
        engine.restore("users", 1)
        assert names(users) == ["a"]
    with StorageEngine(tmp_path, read_only=True) as reader:
        assert names(reader.snapshot("users", at=moments[1])) == ["a", "b"]


def test_a_snapshot_of_now_sees_no_later_change(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert({"name": "a"})
        engine.save()
        users.insert({"name": "b"})
        before = users.snapshot()
        users.delete_many(None)
        engine.save()
        assert names(before) == ["a", "b"]
        assert before.get("2")["name"] == "b"
        assert before.version is None
        assert "now" in repr(before)
        with pytest.raises(VersionNotFound, match='versions="all"'):
            users.snapshot(at=dt.datetime.now(dt.UTC))


@pytest.mark.parametrize(
    "choice", [{"version": 1, "tag": "x"}, {"at": "yesterday"}, {"at": 5}], ids=str
)
def test_a_choice_must_be_clear(tmp_path: Path, choice: dict[str, Any]) -> None:
    with StorageEngine(tmp_path) as engine, pytest.raises(InvalidOption):
        engine.create_collection("users").snapshot(**choice)


def test_an_unknown_choice_of_collections_is_the_default(tmp_path: Path) -> None:
    with pytest.warns(godb_arrow.OptionWarning, match="versions is 'some'"):
        engine = StorageEngine(tmp_path, versions="some")  # type: ignore[arg-type]
    assert engine.options.versions == "large"
    engine.close()


def test_a_tag_keeps_a_version_until_it_is_removed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, keep_versions=2, part_grace="1ms") as engine:
        users = engine.create_collection("users")
        users.insert({"name": "a"})
        tagged = engine.tag("users", "first")
        for name in "bcdefg":
            users.insert({"name": name})
            engine.save()
            engine.compact("users")
        assert names(users.snapshot(tag="first")) == ["a"]
        assert [info.tags for info in users.versions() if info.tags] == [("first",)]
        assert users.tag("first", tagged) == tagged, "again is no error"
        with pytest.raises(TargetExists, match="has the tag 'first'"):
            users.tag("first", users.versions()[-1].version)
        with pytest.raises(VersionNotFound, match="no version 99"):
            users.tag("second", 99)
        with pytest.raises(VersionNotFound, match="with the tag 'third'"):
            users.untag("third")
        users.restore(tagged)
        assert names(users) == ["a"]
    with StorageEngine(tmp_path, keep_versions=2, part_grace="1ms") as engine:
        assert names(engine.snapshot("users", tag="first")) == ["a"]
        engine.untag("users", "first")
        engine.insert("users", {"name": "h"})
        engine.save()
        with pytest.raises(VersionNotFound):
            engine.snapshot("users", tag="first")
        with pytest.raises(VersionNotFound):
            engine.snapshot("users", tagged)


def test_tags_survive_writers_that_do_not_save(tmp_path: Path) -> None:
    engine = opened(tmp_path)
    users = engine.create_collection("users")
    users.insert({"name": "a"})
    users.tag("kept")
    users.insert({"name": "b"})
    users.tag("later", 1)
    users.insert({"name": "c"})
    crash(engine)
    with opened(tmp_path) as again:
        assert names(again["users"]) == ["a", "b", "c"]
        assert names(again.snapshot("users", tag="kept")) == ["a"]
        assert names(again.snapshot("users", tag="later")) == ["a"]


def test_a_tag_is_set_or_not_when_the_disk_fails(tmp_path: Path) -> None:
    for fails in range(40):
        path = tmp_path / str(fails)
        engine = opened(path)
        users = engine.create_collection("users")
        users.insert({"name": "a"})
        disk = FaultyDisk(fails)
        done = False
        with using(disk):
            try:
                users.tag("kept")
                done = True
            except StorageError:
                pass
        assert names(users) == ["a"]
        crash(engine)
        with opened(path) as again:
            assert names(again["users"]) == ["a"]
            if done:
                assert names(again.snapshot("users", tag="kept")) == ["a"]
        if done:
            break
    else:
        pytest.fail("no run without a fault")


def test_followers_have_tags(tmp_path: Path) -> None:
    with opened(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        users.insert({"name": "a"})
        engine.replicate_to(tmp_path / "copy", mode="acknowledged")
        users.tag("kept")
        users.insert({"name": "b"})
    godb_arrow.promote(tmp_path / "copy")
    with opened(tmp_path / "copy") as copy:
        assert names(copy.snapshot("users", tag="kept")) == ["a"]
        assert names(copy["users"]) == ["a", "b"]
