"""What the package shows to the world."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
from importlib.metadata import entry_points, metadata
from pathlib import Path

import click
import pytest

import godb_arrow
from godb_arrow.cli.command import main
from godb_arrow.engine.verbs import CollectionVerbs

VERBS = {
    "delete_backups",
    "follower_status",
    "inspect_godb",
    "list_backups",
    "list_collections",
    "open_godb",
    "promote",
    "read_document",
    "read_documents",
    "read_ndjson",
    "read_godb",
    "read_schema",
    "read_table",
    "restore_backup",
    "scan_godb",
    "verify_godb",
    "write_godb",
}


ENGINE = {
    "LFU",
    "LRU",
    "TTL",
    "BackupInfo",
    "Change",
    "ChangeFeed",
    "Collection",
    "CollectionInfo",
    "CollectionState",
    "CollectionVersion",
    "EngineHealth",
    "EngineStats",
    "EvictionPolicy",
    "Explanation",
    "FieldProfile",
    "FileCollection",
    "Follower",
    "FollowerStatus",
    "IndexDefinition",
    "Validation",
    "JoinedCollection",
    "LRUCache",
    "MemoryStats",
    "Page",
    "VersionInfo",
    "Profile",
    "QueryResult",
    "Replica",
    "RowFilter",
    "Scannable",
    "StorageEngine",
    "Transaction",
    "UpdateResult",
}


def test_the_public_names_are_these() -> None:
    from godb_arrow import errors

    kinds = {name for name in errors.__all__ if name[0].isupper()}
    warnings = {"CompatibilityWarning", "OptionWarning"}
    assert set(godb_arrow.__all__) == VERBS | ENGINE | kinds | warnings | {"__version__"}
    for name in godb_arrow.__all__:
        assert hasattr(godb_arrow, name)


COLLECTION = {
    "aggregate", "at_version", "changes", "checkpoint", "compact", "compare_and_swap",
    "compression", "count",
    "create_index", "create_ttl", "delete", "delete_many", "distinct", "drop_index", "drop_ttl",
    "expire", "explain", "find", "find_all", "find_all_stream", "find_one", "find_one_and_update",
    "find_page", "get", "indexes", "info", "insert", "insert_many", "is_dirty", "list_indexes",
    "name", "next_id", "pack", "path", "profile", "replace", "restore", "sample", "schema",
    "set_compression", "set_validation", "snapshot", "sql", "state", "stored_entries",
    "stored_schema", "stream", "stream_batches", "tag", "to_arrow", "to_dataset", "to_folder",
    "to_pandas", "ttl", "untag", "update", "update_by_id", "update_many", "update_one",
    "upsert_many", "validate", "validation", "versions",
}  # fmt: skip

STORAGE_ENGINE = {
    "add_worker", "at_version", "backup", "changes", "close", "closed", "collections", "compact",
    "count",
    "create_collection", "create_index", "data_dir", "delete", "delete_many", "drop_collection",
    "drop_index", "explain", "find", "find_all", "find_all_stream", "find_page", "get", "health",
    "info",
    "infos", "insert", "insert_many", "load_collection_metadata", "memory_stats", "options", "pack",
    "remove_worker", "rename_collection", "replace", "replicas", "replicate_to", "restore", "save",
    "save_to_file", "sql", "start_background_workers", "stats", "stop_background_workers",
    "snapshot", "stream_batches", "tag", "to_arrow", "to_pandas", "transaction", "untag", "update",
    "update_by_id",
    "upsert_many", "versions",
}  # fmt: skip


def public_names(thing: object) -> set[str]:
    return {name for name in dir(thing) if not name.startswith("_")}


def test_an_engine_and_a_collection_show_what_callers_use(tmp_path: Path) -> None:
    with godb_arrow.StorageEngine(tmp_path) as engine:
        assert public_names(engine) == STORAGE_ENGINE
        assert public_names(engine.create_collection("c")) == COLLECTION


@pytest.mark.parametrize("kind", [godb_arrow.Collection, godb_arrow.StorageEngine])
def test_verbs_of_engines_and_collections_have_docstrings(kind: type) -> None:
    undocumented = [name for name in public_names(kind) if not inspect.getdoc(getattr(kind, name))]
    assert not undocumented


def test_a_verb_of_an_engine_has_the_signature_of_the_collection() -> None:
    for name in public_names(CollectionVerbs):
        of_engine, of_collection = (
            list(inspect.signature(getattr(kind, name)).parameters.values())
            for kind in (godb_arrow.StorageEngine, godb_arrow.Collection)
        )
        assert of_engine.pop(1).name == "name"
        assert of_engine == of_collection, name


def modules() -> list[str]:
    found = pkgutil.walk_packages(godb_arrow.__path__, "godb_arrow.")
    # PySpark is too large for every test run, and the others are optional.
    libraries = {"spark": "pyspark", "avro": "fastavro", "protobuf": "google.protobuf.descriptor"}
    own = ("connectors.dlt", "dlt.source", "dlt.destination", "dlt.plugin")
    libraries |= dict.fromkeys(own, "dlt")
    absent = {f".{name}" for name, library in libraries.items() if not _is_installed(library)}
    return [module.name for module in found if not module.name.endswith(tuple(absent))]


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def test_every_public_function_has_a_docstring_and_every_module() -> None:
    for name in modules():
        module = importlib.import_module(name)
        assert module.__doc__, name
        for public in getattr(module, "__all__", []):
            member = getattr(module, public)
            if inspect.isfunction(member) or inspect.isclass(member):
                assert inspect.getdoc(member), f"{name}.{public}"


@pytest.mark.parametrize("name", sorted(VERBS))
def test_every_verb_shows_parameters_results_and_an_example(name: str) -> None:
    text = inspect.getdoc(getattr(godb_arrow, name)) or ""
    for heading in ("Parameters", "Returns", "Examples"):
        assert f"{heading}\n---" in text
    assert ">>>" in text


def test_every_public_name_but_errors_shows_an_example() -> None:
    for name in godb_arrow.__all__:
        member = getattr(godb_arrow, name)
        if inspect.isclass(member) and issubclass(member, BaseException):
            continue
        if inspect.isclass(member) or inspect.isfunction(member):
            assert ">>>" in (inspect.getdoc(member) or ""), name


def test_every_command_has_help_and_an_example() -> None:
    context = click.Context(main)
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        assert command is not None
        assert command.help
        if name != "demo":
            assert "Example" in command.help, name


def test_connectors_are_a_part_of_the_package_and_nothing_at_the_top() -> None:
    import godb_arrow.connectors.pandas

    assert godb_arrow.connectors.pandas.read_godb is godb_arrow.read_godb
    code = "import importlib.util as u; assert u.find_spec('connectors') is None"
    # The folders of a checkout that PYTHONPATH names are at the top, whatever is installed.
    installed = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd="/", env=installed, check=True)


def test_the_command_is_installed() -> None:
    (command,) = entry_points(group="console_scripts", name="godb-arrow")
    assert command.load() is main
    assert metadata("godb-arrow")["Version"] == godb_arrow.__version__


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("godb_arrow", {"click", "msgpack", "numpy", "pandas", "pyarrow", "tqdm"}),
        ("godb_arrow.cli", {"pandas", "pyarrow.dataset", "tqdm"}),
    ],
)
def test_importing_is_cheap_in_what_it_imports(module: str, heavy: set[str]) -> None:
    heavy = heavy | {"polars", "duckdb", "dask", "pyspark", "fsspec"}
    code = f"import sys, {module}; found = {heavy!r} & set(sys.modules); assert not found, found"
    subprocess.run([sys.executable, "-c", code], check=True)
