"""Which paths and URLs are data directories."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import godb_arrow
from godb_arrow.directory.places import full_path, is_data_directory


def test_a_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert full_path("data/") == full_path("~/data") == full_path(Path("data"))
    assert full_path("data") == os.path.join(os.path.realpath(tmp_path), "data")
    assert full_path("memory://data/") == "memory://data"


@pytest.mark.parametrize("place", ["{}/data", "memory://places/data"])
def test_a_data_directory_is_one_wherever_it_is(tmp_path: Path, place: str) -> None:
    path = place.format(tmp_path)
    assert not is_data_directory(path)
    with godb_arrow.StorageEngine(path, durability="checkpoint") as engine:
        engine.create_collection("users").insert({"name": "Ada"})
    assert is_data_directory(path)
    assert is_data_directory(f"{path}/")
    assert not is_data_directory(f"{path}/collections/users.godb")
    assert not is_data_directory(f"{path}/collections")


@pytest.mark.parametrize("place", ["{}/data", "memory://places/unsaved"])
def test_a_data_directory_is_one_before_the_first_save(tmp_path: Path, place: str) -> None:
    path = place.format(tmp_path)
    with godb_arrow.StorageEngine(path, durability="checkpoint"):
        assert is_data_directory(path)
